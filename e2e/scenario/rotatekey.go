package scenario

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/blessd/blessd/manage/manageapi"
)

var rotateKeyScenarios = []Scenario{
	{
		Name: "rotate-key", Faults: []string{"F34"}, Tier: 0,
		Proves: "`blessd webhooks rotate-key` under load, with a provider that signs with the new key 2 s before it says so: every delivery is answered with the blessing, and no stranger's is stored.",
		Run:    func(e *Env) { rotateKey(e, 2*time.Second, false) },
	},
	{
		Name: "rotate-key-late", Faults: []string{"F34"}, Tier: 1,
		Proves: "The same with an answer that takes 10 s, and a provider that never sends again what was refused: all of it is in the stream once the key is there.",
		Run:    func(e *Env) { rotateKey(e, 10*time.Second, false) },
	},
	{
		Name: "rotate-key-late-retried", Faults: []string{"F34"}, Tier: 1,
		Proves: "The same with a provider that does: nothing is there twice.",
		Run:    func(e *Env) { rotateKey(e, 10*time.Second, true) },
	},
}

// rotateKey has a provider make a new key under load. It signs with it from the moment
// at which it is made; its answer with the key takes that much longer.
func rotateKey(e *Env, delay time.Duration, retries bool) {
	const owner, token = "EXAMPLE-OWNER-0123456789", "EXAMPLE-TOKEN-0123456789"
	acme := endpointOf("sendclean")
	api := manageapi.NewSendClean("sendclean", owner, token, nil)
	api.Put(manageapi.Webhook{URL: publicURL + acme.Path(), Event: "send", Key: acme.secret})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		answer := httptest.NewRecorder()
		api.ServeHTTP(answer, q)
		if strings.HasSuffix(q.URL.Path, "/keyResetWebhook") {
			time.Sleep(delay) // the new key is in force meanwhile
		}
		maps.Copy(w.Header(), answer.Header())
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes()) // a client that has gone needs none
	}))
	e.Cleanup(server.Close)

	b := e.BlessdLater(Config{})
	for name, text := range map[string]string{"owner": owner, "token": token} {
		e.WriteFile(filepath.Join(e.dir, name), text)
	}
	config, err := os.ReadFile(b.ConfigFile())
	if err != nil {
		e.Fatalf("%v", err)
	}
	manage := acme.settings + `, manage: {base_url: "` + server.URL + `/v1.0/", plain_http: true, owner_id_file: "` + filepath.Join(e.dir, "owner") +
		`", token_file: "` + filepath.Join(e.dir, "token") + `"}`
	if !strings.Contains(string(config), acme.settings) {
		e.Fatalf("the configuration has no %q", acme.settings)
	}
	e.Replace(b.ConfigFile(), strings.Replace(string(config), acme.settings, manage, 1)) // acme is the first
	b.Start()

	load := e.Load(b, Load{
		Providers: []string{"sendclean"}, Rate: 125, Retry: retries,
		Make: func(string) *Delivery { return e.SignedBy(api.Webhooks()[0].Key) },
	})
	// Strangers send beside it. They are in no ledger: what is stored of them is a ghost.
	strangers, stop := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(strangers)
		for {
			r := b.send(e.SignedBy("EXAMPLE-GUESS-0123456789"))
			if r.Err == nil && r.Status != http.StatusUnauthorized && r.Status != http.StatusServiceUnavailable {
				e.Errorf("a stranger was answered %d", r.Status)
			}
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	load.MoreBlessed(100)

	out, err := exec.CommandContext(e.ctx, e.o.Binary, "webhooks", "rotate-key", "acme", "-c", b.ConfigFile(), "-o", "json").Output()
	if err != nil {
		e.Fatalf("rotate-key: %v: %s", err, out)
	}
	var report struct {
		Webhooks   []struct{ State string }
		Deliveries struct{ Parked, Blessed, Refused, Held int }
	}
	if err := json.Unmarshal(out, &report); err != nil || len(report.Webhooks) != 1 || report.Webhooks[0].State != "rotated" {
		e.Fatalf("rotate-key says %s, %v", out, err)
	}
	if api.Webhooks()[0].Key == acme.secret {
		e.Fatalf("the provider has made no key: this run shows nothing")
	}
	load.MoreBlessed(100)
	load.Stop()
	close(stop)
	<-strangers

	// Nothing is refused for good: what was answered 503 is owed all the same. A provider
	// that says soon enough which key it signs with is not refused at all.
	e.Rules.NothingRefused = delay <= 5*time.Second
	e.Rules.Redeemed = []int{http.StatusServiceUnavailable}
	e.Logf("%d parked, %d of them blessed, %d held", report.Deliveries.Parked, report.Deliveries.Blessed, report.Deliveries.Held)
	if delay > 5*time.Second && report.Deliveries.Held == 0 {
		e.Errorf("nothing was held: this run shows nothing")
	}
	if report.Deliveries.Blessed == 0 {
		e.Errorf("nothing that was parked was blessed: this run shows nothing")
	}
	if parked := b.Metric("blessd_webhook_parked_total"); int(parked) != report.Deliveries.Parked || b.Metric("blessd_webhook_parked") != 0 {
		e.Errorf("%v parked, %v still; the command counted %d", parked, b.Metric("blessd_webhook_parked"), report.Deliveries.Parked)
	}
	if wrong := api.Wrong(); len(wrong) > 0 {
		e.Errorf("calls that are not as documented: %q", wrong)
	}
}
