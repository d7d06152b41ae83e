package receiver

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/blessd/blessd/delivery"
)

func TestEndpointsThatAreRefused(t *testing.T) {
	token := []Key{{Value: testToken}}
	key := []Key{{Value: testKey}}
	cases := []struct {
		name string
		e    Endpoint
		want string
	}{
		{"no name", Endpoint{Provider: "mailgun"}, "the name must have"},
		{"bad name", Endpoint{Name: "Acme", Provider: "mailgun"}, "the name must have"},
		{"long name", Endpoint{Name: strings.Repeat("a", 33), Provider: "mailgun"}, "the name must have"},
		{"reserved name", Endpoint{Name: "unmatched", Provider: "mailgun"}, "reserved"},
		{"unknown provider", Endpoint{Name: "a", Provider: "sendgrid"}, "not one of enkod, mailgun, sarv, sendclean, vision6"},
		{"empty key", Endpoint{Name: "a", Provider: "mailgun", Keys: []Key{{Source: "/k"}}}, "key in /k is empty"},
		{"blank key", Endpoint{Name: "a", Provider: "mailgun", Keys: []Key{{Value: " \n"}}}, "key is empty"},
		{"empty parent key", Endpoint{Name: "a", Provider: "mailgun", ParentKeys: []Key{{}}}, "parent key is empty"},
		{"empty token", Endpoint{Name: "a", Provider: "enkod", Tokens: []Key{{}}}, "token is empty"},
		{"empty password", Endpoint{Name: "a", Provider: "enkod", BasicAuth: []Key{{}}}, "basic auth is empty"},
		{"short token", Endpoint{Name: "a", Provider: "enkod", Tokens: []Key{{Value: "short", Source: "/t"}}}, "token in /t is not usable: it must have 16 to 128 of A-Z, a-z, 0-9, _ and -; make one with: openssl rand -hex 16"},
		{"long token", Endpoint{Name: "a", Provider: "enkod", Tokens: []Key{{Value: Secret(strings.Repeat("x", 129))}}}, "openssl rand -hex 16"},
		{"token with slash", Endpoint{Name: "a", Provider: "enkod", Tokens: []Key{{Value: testToken + "/"}}}, "openssl rand -hex 16"},
		{"password without user", Endpoint{Name: "a", Provider: "enkod", BasicAuth: []Key{{Value: ":password"}}}, "user:password"},
		{"user without password", Endpoint{Name: "a", Provider: "enkod", BasicAuth: []Key{{Value: "user:"}}}, "user:password"},
		{"no colon", Endpoint{Name: "a", Provider: "enkod", BasicAuth: []Key{{Value: "password"}}}, "user:password"},
		{"open enkod", Endpoint{Name: "a", Provider: "enkod"}, "spell out auth: none"},
		{"open vision6", Endpoint{Name: "a", Provider: "vision6"}, "spell out auth: none"},
		{"none and a token", Endpoint{Name: "a", Provider: "vision6", NoAuth: true, Tokens: token}, "contradicts"},
		{"none for mailgun", Endpoint{Name: "a", Provider: "mailgun", NoAuth: true}, "auth: none is not for mailgun"},
		{"none for sendclean", Endpoint{Name: "a", Provider: "sendclean", NoAuth: true}, "auth: none is not for sendclean"},
		{"key for enkod", Endpoint{Name: "a", Provider: "enkod", Tokens: token, Keys: key}, "signs nothing"},
		{"parent key for sarv", Endpoint{Name: "a", Provider: "sarv", ParentKeys: key}, "no parent keys"},
		{"report for mailgun", Endpoint{Name: "a", Provider: "mailgun", Tokens: token, Signature: SignatureReport}, "not for mailgun"},
		{"report for strangers", Endpoint{Name: "a", Provider: "sendclean", Signature: SignatureReport}, "anybody could post"},
		{"unknown mode", Endpoint{Name: "a", Provider: "sendclean", Signature: "off"}, `"off" is neither enforce nor report`},
		{"variants for mailgun", Endpoint{Name: "a", Provider: "mailgun", Variants: []string{"body-hex"}}, "variants are not for it"},
		{"unknown variant", Endpoint{Name: "a", Provider: "sarv", Variants: []string{"rot13"}}, `"rot13" is not one of body-base64`},
		{"no url", Endpoint{Name: "a", Provider: "sarv", Keys: key}, "set public_url or url"},
		{"relative url", Endpoint{Name: "a", Provider: "sarv", Keys: key, URL: "/hooks/a"}, "set public_url or url"},
		{"negative age", Endpoint{Name: "a", Provider: "mailgun", MaxAge: -1}, "negative"},
	}
	good := samples()[1].endpoint
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, Limits{}, good)
			err := b.SetEndpoints([]Endpoint{{Name: "fine", Provider: "mailgun"}, c.e})
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), fmt.Sprintf("endpoint %q", c.e.Name)) {
				t.Fatalf("got %v, want ...%s...", err, c.want)
			}
			// Nothing has changed.
			if w := b.do(httptest.NewRequest("GET", "/hooks/fine", nil)); w.Code != 404 {
				t.Errorf("an endpoint beside the bad one is served: %d", w.Code)
			}
			if w := b.do(httptest.NewRequest("GET", Path(good.Name, ""), nil)); w.Code != 200 {
				t.Errorf("the endpoint from before is gone: %d", w.Code)
			}
		})
	}
	b := newBench(t, Limits{})
	err := b.SetEndpoints([]Endpoint{good, good, {Name: "b", Provider: "enkod"}})
	if err == nil || !strings.Contains(err.Error(), "taken by another") || !strings.Contains(err.Error(), "auth: none") {
		t.Errorf("not all problems are in %v", err)
	}
}

func TestSetEndpointsKeepsNothingOfItsArgument(t *testing.T) {
	s := samples()[1]
	es := []Endpoint{s.endpoint}
	b := newBench(t, Limits{}, es...)
	es[0].Keys[0].Value = "changed behind its back"
	expect(t, b.do(s.request(t, testKey)), "mailgun", "")
}

func TestPasswords(t *testing.T) {
	basic := func(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }
	cases := []struct {
		name   string
		header []string
		want   reason
	}{
		{"right", []string{basic("user:pass:word")}, ""},
		{"right, other case", []string{"basic" + basic("user:pass:word")[5:]}, ""},
		{"second", []string{basic("next:password")}, ""},
		{"none", nil, badCredentials},
		{"empty", []string{""}, badCredentials},
		{"wrong", []string{basic("user:pass:wore")}, badCredentials},
		{"shorter", []string{basic("user:pass")}, badCredentials},
		{"longer", []string{basic("user:pass:word1")}, badCredentials},
		{"other user", []string{basic("next:pass:word")}, badCredentials},
		{"no colon", []string{basic("userpass:word")}, badCredentials},
		{"not base64", []string{"Basic user:pass:word"}, badCredentials},
		{"other scheme", []string{"Bearer" + basic("user:pass:word")[5:]}, badCredentials},
		{"twice", []string{basic("user:pass:word"), basic("user:pass:word")}, badCredentials},
	}
	for _, provider := range []string{"enkod", "vision6"} {
		for _, tokens := range [][]Key{nil, {{Value: testToken}}} {
			e := Endpoint{Name: "e", Provider: provider, BasicAuth: []Key{{Value: "user:pass:word"}, {Value: "next:password"}}, Tokens: tokens}
			token, method := "", delivery.ByBasicAuth
			if tokens != nil {
				token, method = testToken, delivery.ByToken
			}
			for _, c := range cases {
				t.Run(provider+" "+string(method)+" "+c.name, func(t *testing.T) {
					b := newBench(t, Limits{}, e)
					q := request(t, provider, Path("e", token), "", "", `{}`)
					q.Header["Authorization"] = c.header
					w := b.do(q)
					expect(t, w, provider, c.want)
					if got := w.Header().Get("WWW-Authenticate"); (got != "") != (c.want != "") {
						t.Errorf("WWW-Authenticate is %q", got)
					}
					if c.want == "" && b.store.deliveries()[0].Verified.Method != method {
						t.Errorf("verified %+v, want %s", b.store.deliveries()[0].Verified, method)
					}
				})
			}
		}
	}
}

func TestPasswordAndTokenAreBothRequired(t *testing.T) {
	b := newBench(t, Limits{}, Endpoint{Name: "e", Provider: "enkod", BasicAuth: []Key{{Value: "user:password"}}, Tokens: []Key{{Value: testToken}}})
	q := request(t, "enkod", "/hooks/e", "", "", `{}`)
	q.SetBasicAuth("user", "password")
	expect(t, b.do(q), "enkod", badToken)
	expect(t, b.do(request(t, "enkod", Path("e", testToken), "", "", `{}`)), "enkod", badCredentials)
}

func TestMailgunWithTokenAndPassword(t *testing.T) {
	e := Endpoint{Name: "eu", Provider: "mailgun", Keys: []Key{{Value: testKey}}, Tokens: []Key{{Value: testToken}}, BasicAuth: []Key{{Value: "user:password"}}}
	b := newBench(t, Limits{}, e)
	send := func(path string, key Secret, password string, want reason) {
		t.Helper()
		q := request(t, "mailgun", path, "", key, `{"id":"1"}`)
		q.SetBasicAuth("user", password)
		expect(t, b.do(q), "mailgun", want)
	}
	send(Path("eu", testToken), testKey, "password", "")
	send(Path("eu", testToken), testKey, "passworD", badCredentials)
	send(Path("eu", testToken), testKey+"x", "password", badSignature)
	send(Path("eu", ""), testKey, "password", badToken)
	if got := b.store.deliveries(); len(got) != 1 || got[0].Verified.Method != delivery.BySignature {
		t.Errorf("stored %+v", got)
	}
}

func TestNoAuth(t *testing.T) {
	for _, provider := range []string{"enkod", "vision6"} {
		b := newBench(t, Limits{}, Endpoint{Name: "open", Provider: provider, NoAuth: true})
		expect(t, b.do(request(t, provider, "/hooks/open", "", "", `{}`)), provider, "")
		if got, want := b.store.deliveries()[0].Verified, (delivery.Verification{Method: delivery.ByNothing}); got != want {
			t.Errorf("verified %+v, want %+v", got, want)
		}
	}
}

// What comes with a token that blessd made up is a test.
func TestSampleToken(t *testing.T) {
	eachProvider(t, func(t *testing.T, s sample) {
		if s.signs {
			t.Skip("its signature says so")
		}
		const real, made = "0123456789abcdefghijklmnop", "made-up-by-blessd-0123456"
		s.endpoint.NoAuth = false
		s.endpoint.Tokens = []Key{{Value: real}, {Value: made, Sample: true}}
		b := newBench(t, Limits{}, s.endpoint)
		for i, token := range []string{real, made} {
			q := s.request(t, testKey)
			q.URL.Path = Path(s.endpoint.Name, token)
			expect(t, b.do(q), s.endpoint.Provider, "")
			want := delivery.Verification{Method: delivery.ByToken, Key: s.endpoint.Tokens[i].Fingerprint(), Sample: token == made}
			if got := b.store.deliveries()[i].Verified; got != want {
				t.Errorf("verified %+v, want %+v", got, want)
			}
		}
	})
}

func TestAwaitingKey(t *testing.T) {
	eachProvider(t, func(t *testing.T, s sample) {
		if !s.signs {
			t.Skip("signs nothing")
		}
		s.endpoint.Keys = nil
		b := newBench(t, Limits{}, s.endpoint)
		expect(t, b.do(httptest.NewRequest("GET", s.path(), nil)), s.endpoint.Provider, "")
		expect(t, b.do(s.request(t, testKey)), s.endpoint.Provider, awaitingKey)

		s.endpoint.Keys = []Key{{Value: "made-up-by-blessd", Sample: true}}
		if err := b.SetEndpoints([]Endpoint{s.endpoint}); err != nil {
			t.Fatal(err)
		}
		expect(t, b.do(s.request(t, testKey)), s.endpoint.Provider, awaitingKey)
		q := s.request(t, testKey)
		q.Header = nil
		q.Body = httptest.NewRequest("POST", "/", strings.NewReader("x=1")).Body
		expect(t, b.do(q), s.endpoint.Provider, awaitingKey)
		if n := len(b.store.deliveries()); n != 0 {
			t.Fatalf("%d deliveries are stored", n)
		}
		expect(t, b.do(s.request(t, "made-up-by-blessd")), s.endpoint.Provider, "")
		got := b.store.deliveries()[0].Verified
		if want := (delivery.Verification{Method: delivery.BySignature, Key: s.endpoint.Keys[0].Fingerprint(), Sample: true}); got != want {
			t.Errorf("verified %+v, want %+v", got, want)
		}

		s.endpoint.Keys = append(s.endpoint.Keys, Key{Value: testKey})
		if err := b.SetEndpoints([]Endpoint{s.endpoint}); err != nil {
			t.Fatal(err)
		}
		expect(t, b.do(s.request(t, testKey)), s.endpoint.Provider, "")
		expect(t, b.do(s.request(t, "made-up-by-blessd")), s.endpoint.Provider, "")
		expect(t, b.do(s.request(t, "neither")), s.endpoint.Provider, badSignature)
		all := b.store.deliveries()
		if all[1].Verified.Sample || !all[2].Verified.Sample {
			t.Errorf("samples are confused: %+v, %+v", all[1].Verified, all[2].Verified)
		}
	})
}

func TestSecretNeverShows(t *testing.T) {
	const s = Secret("canary")
	k := Key{Value: s, Source: "/k"}
	text, err := s.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	j, err := json.Marshal(k)
	if err != nil {
		t.Fatal(err)
	}
	out := []string{string(text), string(j)}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%c"} {
		out = append(out, fmt.Sprintf(verb, s), fmt.Sprintf(verb, k), fmt.Sprintf(verb, []Key{k}))
	}
	var b syncBuffer
	log := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), &zapBuffer{&b}, zap.DebugLevel))
	log.Info("x", zap.Any("secret", s), zap.Stringer("s", s), zap.Any("key", k), zap.Any("keys", []Key{k}), zap.Reflect("r", s))
	out = append(out, b.String())
	for _, o := range out {
		if strings.Contains(o, "canary") || strings.Contains(strings.ToLower(o), "63616e617279") || strings.Contains(o, "99 97 110") || strings.Contains(o, "99,97,110") {
			t.Errorf("it shows in %s", o)
		}
	}
	if got, want := k.Fingerprint(), "e100fbce"; got != want {
		t.Errorf("fingerprint %s, want %s", got, want)
	}
}

// zapBuffer adds the Sync that zap asks for.
type zapBuffer struct{ *syncBuffer }

func (*zapBuffer) Sync() error { return nil }

func TestSigningOverTheURL(t *testing.T) {
	tokens := []Key{{Value: testToken}, {Value: testToken + "2"}}
	cases := []struct {
		name, registered string
		e                Endpoint
		token            string
		want             reason
	}{
		{"plain", testURL + "acme", Endpoint{URL: testURL + "acme"}, "", ""},
		{"with the token that matched", testURL + "acme/" + testToken + "2", Endpoint{URL: testURL + "acme", Tokens: tokens}, testToken + "2", ""},
		{"with another token", testURL + "acme/" + testToken, Endpoint{URL: testURL + "acme", Tokens: tokens}, testToken + "2", badSignature},
		{"complete", "https://user:pw@h.example.com/in?x=1", Endpoint{URL: "https://user:pw@h.example.com/in?x=1", URLIsComplete: true, Tokens: tokens}, testToken, ""},
		{"host of the request", "https://example.com/hooks/acme", Endpoint{URL: testURL + "acme"}, "", badSignature},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			c.e.Name, c.e.Provider, c.e.Keys, c.e.Signature = "acme", "sendclean", []Key{{Value: testKey}}, SignatureEnforce
			b := newBench(t, Limits{}, c.e)
			q := request(t, "sendclean", Path("acme", c.token), c.registered, testKey, formBody)
			q.Host = "evil.example.org"
			q.Header.Set("X-Forwarded-Host", "example.com")
			q.Header.Set("X-Forwarded-Proto", "https")
			expect(t, b.do(q), "sendclean", c.want)
		})
	}
}
