package scenario

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

var natstlsScenarios = []Scenario{
	{
		Name: "nats-certificates", Faults: []string{"F35"}, Tier: 1,
		Proves: "The certificate of the NATS server, and the authority that signed it, may be replaced while blessd runs: it connects again by itself.",
		Run:    natsCertificates,
	},
}

// authority signs certificates for 127.0.0.1.
type authority struct {
	env  *Env
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func (e *Env) authority(name string) *authority {
	a := &authority{env: e}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	var text []byte
	a.key, text = e.sign(template, nil)
	a.pem = string(text)
	a.cert = template
	return a
}

// sign makes a certificate, signed by an authority or by itself.
func (e *Env) sign(template *x509.Certificate, by *authority) (*ecdsa.PrivateKey, []byte) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		e.Fatalf("%v", err)
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		e.Fatalf("%v", err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// server puts a new certificate and its key in place.
func (a *authority) server(cert, key string) {
	e := a.env
	k, text := e.sign(&x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "nats"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, a)
	der, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		e.Fatalf("%v", err)
	}
	e.Replace(cert, string(text))
	e.Replace(key, string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})))
}

// natsCertificates lets the bench's own reader in without TLS, and nobody else: blessd
// is told to use it.
func natsCertificates(e *Env) {
	cert, key, ca := filepath.Join(e.dir, "nats.crt"), filepath.Join(e.dir, "nats.key"), filepath.Join(e.dir, "ca.crt")
	first, second := e.authority("first"), e.authority("second")
	first.server(cert, key)
	e.WriteFile(ca, first.pem)
	n := e.NATS("allow_non_tls: true", fmt.Sprintf("tls { cert_file: %q, key_file: %q }", cert, key))
	// The section nats goes on with what follows the URL.
	b := e.Blessd(Config{NATS: n.URL() + "\n  tls: {ca_file: " + ca + "}"})
	const reconnects, connected = "blessd_nats_reconnects_total", "blessd_nats_connected"
	b.WaitMetric(1, connected)
	load := e.Load(b, Load{Pause: 50 * time.Millisecond})
	for range e.Times(1) {
		load.MoreBlessed(100)

		// A new certificate by the same authority, which the server reads again.
		first.server(cert, key)
		n.Signal(syscall.SIGHUP)
		before := b.Metric(reconnects)
		n.Stop()
		n.Start()
		e.Wait("blessd to connect again", func() bool { return b.Metric(reconnects) > before && b.Metric(connected) == 1 })
		load.MoreBlessed(100)

		// One by another authority, which blessd does not know yet.
		second.server(cert, key)
		n.Stop()
		n.Start()
		load.MoreBlessed(100)
		b.WaitMetric(0, connected)
		e.Wait("status to say why blessd cannot connect", func() bool {
			_, status := b.Get("/-/status")
			return strings.Contains(status, "certificate signed by unknown authority")
		})
		e.Replace(ca, second.pem)
		b.WaitMetric(1, connected)
		load.MoreBlessed(100)
		first, second = second, first
	}
	e.Rules.NothingRefused = true
}
