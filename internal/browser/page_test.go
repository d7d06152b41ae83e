package browser

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	cdpbrowser "github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// patience is how long anything may take on a busy machine.
const patience = 60 * time.Second

// program is a blessd that runs as its own process, without a configuration.
type program struct {
	dir, binary  string
	Hooks, Admin string
}

func startProgram(t *testing.T) *program {
	t.Helper()
	p := &program{dir: filepath.Join(t.TempDir(), "data")}
	p.binary = filepath.Join(t.TempDir(), "blessd")
	build := exec.Command("go", "build", "-o", p.binary, "./cmd/blessd")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build blessd: %v\n%s", err, out)
	}
	p.keep(t, "mailgun", "provider.key", "a-key-of-the-provider-0123")
	var talk bytes.Buffer
	serve := exec.Command(p.binary, "serve", "--data-dir", p.dir, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0",
		"--public-url", "https://hooks.example.com")
	serve.Stdout, serve.Stderr = &talk, &talk
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = serve.Process.Signal(syscall.SIGTERM) // one that has ended shows below
		if err := serve.Wait(); err != nil {
			t.Errorf("blessd: %v\n%s", err, talk.String())
		}
	})
	await(t, "blessd", func() error {
		b, err := os.ReadFile(filepath.Join(p.dir, "addresses.json"))
		if err != nil {
			return err
		}
		if err := json.Unmarshal(b, p); err != nil {
			return err
		}
		a, err := http.Get("http://" + p.Admin + "/-/ready")
		if err != nil {
			return err
		}
		defer a.Body.Close()
		if a.StatusCode != http.StatusOK {
			return fmt.Errorf("not ready: %d", a.StatusCode)
		}
		return nil
	})
	return p
}

// keep puts a key where a person would.
func (p *program) keep(t *testing.T, endpoint, name, key string) {
	t.Helper()
	dir := filepath.Join(p.dir, "keys", endpoint)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(key+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func await(t *testing.T, what string, try func() error) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s: %v", patience, what, err)
		}
	}
}

// token returns what is in the URL of an endpoint.
func (p *program) token(t *testing.T, endpoint string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(p.dir, "keys", endpoint, "token"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// post sends an enKod body as somebody with that User-Agent.
func (p *program) post(t *testing.T, path, agent, body string) int {
	t.Helper()
	q, err := http.NewRequest(http.MethodPost, "http://"+p.Hooks+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Content-Type", "application/json")
	q.Header.Set("User-Agent", agent)
	a, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	return a.StatusCode
}

func (p *program) run(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(p.binary, append(args, "--data-dir", p.dir)...).CombinedOutput(); err != nil {
		t.Fatalf("blessd %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// tab is a page in Chromium, with everything that it complained of.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu         sync.Mutex
	complaints []string
}

// chromium returns the browser's path, or skips the test.
func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skip("SKIPPED: there is no Chromium here (apt-get install chromium)")
	return ""
}

func openTab(t *testing.T, binary, url string) *tab {
	t.Helper()
	options := append(
		chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(binary), chromedp.NoSandbox, chromedp.UserDataDir(t.TempDir()),
		chromedp.WSURLReadTimeout(patience), chromedp.Flag("disable-component-update", true),
	)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx) // waits for the browser, which writes to its directory
		cancel()
	})
	b := &tab{t: t, ctx: ctx}
	complain := func(format string, a ...any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.complaints = append(b.complaints, fmt.Sprintf(format, a...))
	}
	err := chromedp.Listen(ctx, func(e any) {
		switch e := e.(type) {
		case *log.EventEntryAdded: // what breaks the Content-Security-Policy is among it
			complain("%s: %s %s", e.Entry.Level, e.Entry.Text, e.Entry.URL)
		case *runtime.EventExceptionThrown:
			complain("exception: %s", e.ExceptionDetails.Text)
		case *runtime.EventConsoleAPICalled:
			complain("console: %s %v", e.Type, e.Args)
		}
	})
	if err != nil {
		t.Fatalf("start %s: %v", binary, err)
	}
	for _, name := range []string{"clipboard-read", "clipboard-write"} {
		_, err := cdp.Call(ctx, chromedp.FromContext(ctx).Browser, cdpbrowser.SetPermission, cdpbrowser.SetPermissionParams{
			Permission: &cdpbrowser.PermissionDescriptor{Name: name}, Setting: cdpbrowser.PermissionSettingGranted, Origin: strings.TrimSuffix(url, "/"),
		})
		if err != nil {
			t.Fatalf("permit %s: %v", name, err)
		}
	}
	b.do("open the page", send(log.Enable, cdp.Empty{}), chromedp.Navigate(url))
	return b
}

// send is the action that sends a command of the protocol.
func send[P, R any](command cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, command, params)
		return err
	})
}

func (b *tab) do(what string, actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		b.t.Fatalf("%s: %v\n%s", what, err, strings.Join(b.said(), "\n"))
	}
}

func (b *tab) said() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.complaints)
}

// eval returns the value of an expression.
func eval[T any](b *tab, expression string) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatalf("%s: %v\n%s", expression, err, strings.Join(b.said(), "\n"))
	}
	return v
}

// run evaluates what has no value.
func (b *tab) run(script string) {
	b.t.Helper()
	eval[bool](b, "(() => { "+script+"; return true; })()")
}

// until waits for an expression to be true.
func (b *tab) until(expression string) {
	b.t.Helper()
	await(b.t, expression, func() error {
		if !eval[bool](b, expression) {
			return fmt.Errorf("it is not so; the page says %q and shows:\n%s", b.said(), eval[string](b, "document.body.innerText.slice(-4000)"))
		}
		return nil
	})
}

// click clicks as a person does: where the element is, if it can be seen there.
func (b *tab) click(selector string) {
	b.t.Helper()
	b.do("click "+selector, chromedp.Click(chromedp.CSS(selector)))
}

func (b *tab) screen(width, height int64, phone bool, scheme string) {
	b.t.Helper()
	b.do("change the screen",
		send(emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: height, DeviceScaleFactor: 1, Mobile: phone}),
		send(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}),
	)
}

// picture keeps what the page looks like, where that was asked for: all of it, or the
// screen from an element on.
func (b *tab) picture(name, from string) {
	b.t.Helper()
	dir := os.Getenv("BLESSD_SCREENSHOTS")
	if dir == "" {
		return
	}
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	beyond := from == ""
	if !beyond {
		b.run("document.querySelector(" + quoted(from) + ").scrollIntoView()")
	}
	shot, err := cdp.Call(ctx, chromedp.FromContext(b.ctx).Target, page.CaptureScreenshot, page.CaptureScreenshotParams{CaptureBeyondViewport: &beyond})
	if err != nil {
		b.t.Fatalf("take a picture: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), shot.Data, 0o600); err != nil {
		b.t.Fatal(err)
	}
}

const card = `article[aria-label="Endpoint enkod"]`

func TestPage(t *testing.T) {
	binary := chromium(t)
	p := startProgram(t)
	b := openTab(t, binary, "http://"+p.Admin+"/")
	b.screen(1280, 900, false, "light")
	b.until(`document.querySelectorAll("#endpoints article").length === 5`)
	b.until(`document.getElementById("state").textContent === "ready"`)
	b.until(`document.getElementById("feed-state").textContent === "live"`)
	b.until(`document.querySelector('` + card + `').innerText.includes("last delivery not seen yet")`)

	token := p.token(t, "enkod")
	good := "/hooks/enkod/" + token
	if a, err := http.Get("http://" + p.Hooks + good); err != nil || a.Body.Close() != nil || a.StatusCode != http.StatusOK {
		t.Fatal("the URL check is not answered", err)
	}
	b.until(`/URL check (just now|\d+ s ago)/.test(document.querySelector('` + card + `').innerText)`)

	t.Run("looks", func(t *testing.T) {
		b.t = t
		p.run(t, "send", "--all")
		p.run(t, "send", "mailgun", "opened", "--fresh=false")
		p.post(t, "/hooks/enkod/wrong-token-0123456789", "curl/8.14", "{}")
		b.until(`document.querySelectorAll("#feed > li").length >= 10`)
		b.until(`document.querySelector('` + card + `').innerText.includes("bad_token")`)
		b.until(`document.getElementById("feed-state").textContent.includes("too many to show") || document.querySelectorAll("#feed > li").length >= 40`)
		for _, s := range []struct {
			name, scheme  string
			width, height int64
			phone         bool
		}{
			{"desktop-light", "light", 1280, 900, false},
			{"desktop-dark", "dark", 1280, 900, false},
			{"phone-light", "light", 360, 740, true},
			{"phone-dark", "dark", 360, 740, true},
		} {
			b.screen(s.width, s.height, s.phone, s.scheme)
			b.until(fmt.Sprintf(`innerWidth === %d`, s.width))
			if over := eval[[]string](b, tooWide); len(over) > 0 {
				t.Errorf("%s: wider than the screen: %q", s.name, over)
			}
			if small := eval[[]string](b, tooSmall); s.phone && len(small) > 0 {
				t.Errorf("%s: too small for a finger: %q", s.name, small)
			}
			b.picture(s.name, "")
		}
		b.screen(960, 790, false, "light")
		b.picture("docs", "header")
		b.screen(1280, 900, false, "dark")
		dark := eval[string](b, `getComputedStyle(document.body).backgroundColor`)
		b.screen(1280, 900, false, "light")
		b.until(`getComputedStyle(document.body).backgroundColor !== ` + fmt.Sprintf("%q", dark))
	})
	for _, part := range []struct {
		name string
		test func()
	}{
		{"every control", func() { testControls(b, p, token) }},
		{"hostile payloads", func() { testHostile(b, p, good) }},
		{"keyboard", func() { testKeyboard(b) }},
	} {
		if !t.Run(part.name, func(t *testing.T) { b.t = t; part.test() }) {
			break // it leaves the page in no known state
		}
	}
	b.t = t
	for _, c := range b.said() {
		t.Errorf("the browser says: %s", c)
	}
}

// tooWide names what makes the page scroll sideways.
const tooWide = `(() => {
  const w = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= w) return [];
  return [...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > w + 1).map(e => e.tagName + "." + e.className + " " + e.textContent.slice(0, 60));
})()`

// tooSmall names what a finger does not hit.
const tooSmall = `[...document.querySelectorAll("button, summary")].filter(e => e.offsetParent && e.getBoundingClientRect().height < 24).map(e => e.tagName + " " + e.textContent.slice(0, 40))`

// testControls uses each control with the mouse and looks at what comes of it. Any
// that it does not know fails it.
func testControls(b *tab, p *program, token string) {
	t := b.t
	shown := `document.querySelector('` + card + ` .url').textContent`
	clipboard := `navigator.clipboard.readText()`
	if s := eval[string](b, shown); !strings.HasSuffix(s, "/hooks/enkod/<token>") {
		t.Errorf("the page shows the URL %s", s)
	}
	if strings.Contains(eval[string](b, `document.documentElement.outerHTML`), token) {
		t.Error("the token is in the page before anybody asked for it")
	}
	b.click(card + ` button[aria-label^="Copy the URL"]`)
	b.until(`document.getElementById("said").textContent.includes("the URL of enkod copied")`)
	if got := eval[string](b, clipboard); !strings.HasSuffix(got, "/hooks/enkod/"+token) {
		t.Errorf("copied %q", got)
	}
	if s := eval[string](b, shown); strings.Contains(s, token) {
		t.Error("copying shows the token")
	}
	show := card + ` button[aria-label^="Show the token"]`
	b.click(show)
	b.until(shown + `.endsWith(` + fmt.Sprintf("%q", "/hooks/enkod/"+token) + `)`)
	b.click(show)
	b.until(shown + `.endsWith("<token>")`)

	for _, details := range []string{card + " details.how", card + " details:not(.how)"} {
		open := `document.querySelector('` + details + `').open`
		b.click(details + " > summary")
		b.until(open)
		if text := eval[string](b, `document.querySelector('`+details+`').innerText`); !strings.Contains(text, "enKod") && !strings.Contains(text, "stored and blessed") {
			t.Errorf("%s holds %q", details, text)
		}
		// What is open stays open when the page is brought up to date.
		b.until(`new Promise(done => { const before = document.getElementById("read").textContent; new MutationObserver((_, o) => { o.disconnect(); done(true); }).observe(document.getElementById("pipeline"), {childList: true}); })`)
		b.until(open)
		b.click(details + " > summary")
		b.until("!" + open)
	}

	b.click("#pause")
	b.until(`document.getElementById("feed-state").textContent.startsWith("paused") && document.getElementById("pause").textContent === "Go on"`)
	p.run(t, "send", "enkod", "message_open")
	b.until(`document.querySelector('` + card + `').innerText.includes("9 accepted")`)
	before := eval[string](b, `document.querySelector("#feed > li")?.innerText ?? ""`)
	b.click("#pause")
	b.until(`document.getElementById("feed-state").textContent.startsWith("live")`)
	b.until(`document.querySelector("#feed > li").innerText !== ` + quoted(before)) // what came meanwhile comes now

	b.click("#clear")
	b.until(`document.querySelectorAll("#feed > li").length === 0 && !document.getElementById("feed-empty").hidden`)
	p.post(t, "/hooks/enkod/"+token, "a test", `{"event":"message sent","message_id":1,"message_uid":"one","to":"person@example.net"}`)
	b.until(`document.querySelectorAll("#feed > li").length === 1`)
	item := "#feed > li:first-child"
	b.click(item + " summary")
	b.until(`document.querySelector("` + item + ` details").open`)
	text := `document.querySelector("` + item + `").innerText`
	if s := eval[string](b, text); strings.Contains(s, "person@") || !strings.Contains(s, "p\u2026@example.net") || !strings.Contains(s, `"type": "email.sent"`) {
		t.Errorf("the event shows:\n%s", s)
	}
	reveal := item + ` button[aria-label^="Show the addresses"]`
	b.click(reveal)
	b.until(text + `.split("person@example.net").length >= 3`) // in the event and in what was sent
	b.click(item + ` button[aria-label^="Copy this event"]`)
	b.until(`document.getElementById("said").textContent === "the event copied."`)
	if got := eval[string](b, clipboard); !strings.Contains(got, `"recipient": "person@example.net"`) {
		t.Errorf("copied %s", got)
	}
	b.picture("event-open", "#feed-title")
	b.click(reveal)
	b.until(`!` + text + `.includes("person@")`)

	for _, link := range eval[[]string](b, `[...document.querySelectorAll("footer a")].map(a => a.href)`) {
		a, err := http.Get(link)
		if err != nil || a.Body.Close() != nil || a.StatusCode != http.StatusOK {
			t.Errorf("%s does not answer (%v)", link, err)
		}
	}
	known := []string{"Show", "Hide", "Copy URL", "Pause", "Go on", "Clear", "Show addresses", "Hide addresses", "Copy event"}
	for _, label := range eval[[]string](b, `[...document.querySelectorAll("button, input, select, textarea, [role=button]")].map(e => e.textContent)`) {
		if !slices.Contains(known, label) {
			t.Errorf("the control %q is not tested", label)
		}
	}
}

// quoted returns s as a string of JSON and JavaScript, with < and > as they are.
func quoted(s string) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		panic(err) // strings can be encoded
	}
	return strings.TrimSpace(b.String())
}

// testHostile sends what would break a careless page, and looks for it as text.
func testHostile(b *tab, p *program, path string) {
	t := b.t
	b.click("#clear")
	agent := `<img src=x onerror=window.pwned=1>`
	hostile := []string{
		`<script>window.pwned=1</script>`,
		`"><img src=x onerror=window.pwned=1>`,
		`</pre></details><svg onload=window.pwned=1>`,
		`javascript:window.pwned=1`,
		"\u202egnp.exe\u202c and \u2067right to left\u2069",
		`{{constructor.constructor('window.pwned=1')()}}`,
		"\u2028\u2029</script><script>window.pwned=1</script>",
	}
	for _, h := range hostile {
		body := fmt.Sprintf(`{"event":"message clicked","message_id":1,"message_uid":%s,"to":%s,"click_url":%s}`, quoted(h), quoted(h+"@example.net"), quoted(h))
		if code := p.post(t, path, agent, body); code != http.StatusOK {
			t.Fatalf("answered %d", code)
		}
		b.until(`document.getElementById("feed").textContent.includes(` + quoted(strings.Fields(h)[0]) + `)`)
	}
	huge := strings.Repeat("W", 40_000) // no blank to break it at
	p.post(t, path, strings.Repeat("A", 2000), `{"event":"message clicked","message_id":1,"message_uid":"huge","to":"a`+huge+`@example.net","click_url":"`+huge+`"}`)
	p.post(t, path, agent, `{"event":`) // goes to quarantine
	p.post(t, path, agent, `[{"event":"<b>new</b>"},7,"<i>"]`)
	b.until(`document.getElementById("feed").textContent.includes("unreadable_body")`)
	b.until(`document.getElementById("feed").textContent.includes("unreadable_element")`)
	b.run(`document.querySelectorAll("details").forEach(d => d.open = true)`)
	b.until(`document.querySelector('` + card + `').innerText.includes(` + quoted(agent) + `)`)
	for _, width := range []int64{360, 1280} {
		b.screen(width, 740, width < 500, "light")
		b.until(fmt.Sprintf(`innerWidth === %d`, width))
		if over := eval[[]string](b, tooWide); len(over) > 0 {
			t.Errorf("wider than %d: %q", width, over)
		}
		b.picture(fmt.Sprintf("hostile-%d-feed", width), "#feed-title")
		b.picture(fmt.Sprintf("hostile-%d-endpoint", width), card)
	}
	if n := eval[int](b, `document.querySelectorAll("main img, main script, main svg, main b, main i, main iframe, main a").length`); n != 0 {
		t.Errorf("%d elements were made of text", n)
	}
	if !eval[bool](b, `window.pwned === undefined`) {
		t.Error("a payload was run")
	}
	b.run(`document.querySelectorAll("details").forEach(d => d.open = false)`)
}

// testKeyboard reaches every control with the tab key alone, sees where it is, and
// uses them.
func testKeyboard(b *tab) {
	t := b.t
	b.screen(1280, 900, false, "light")
	b.click("#pause") // so that nothing is added on the way
	b.until(`document.getElementById("pause").textContent === "Go on"`)
	b.run(`document.activeElement.blur(); getSelection().removeAllRanges(); window.scrollTo(0, 0)`)
	all := eval[int](b, `[...document.querySelectorAll("a, button, summary, pre")].filter(e => e.checkVisibility()).length`)
	b.run(`window.reached = new Set(); window.unseen = [];
		document.addEventListener("focusin", e => { reached.add(e.target); const s = getComputedStyle(e.target); if (s.outlineStyle === "none" || parseFloat(s.outlineWidth) < 2) unseen.push(e.target.outerHTML.slice(0, 100)); })`)
	for range all + 5 {
		b.do("press tab", chromedp.KeyEvent(kb.Tab))
	}
	missing := eval[[]string](b, `[...document.querySelectorAll("a, button, summary, pre")].filter(e => e.checkVisibility() && !reached.has(e)).map(e => e.outerHTML.slice(0, 100))`)
	if len(missing) > 0 {
		t.Errorf("the tab key does not reach %q", missing)
	}
	if unseen := eval[[]string](b, `unseen`); len(unseen) > 0 {
		t.Errorf("nobody sees that these have the focus: %q", unseen)
	}
	for _, c := range []struct{ focus, key, want string }{
		{"#pause", kb.Enter, `document.getElementById("pause").textContent === "Pause"`},
		{"#pause", " ", `document.getElementById("pause").textContent === "Go on"`},
		{card + " details.how > summary", kb.Enter, `document.querySelector('` + card + ` details.how').open`},
		{"#feed > li:first-child summary", " ", `document.querySelector("#feed > li:first-child details").open`},
		{card + ` button[aria-label^="Show the token"]`, kb.Enter, `document.querySelector('` + card + ` .url').textContent.length > 60 && !document.querySelector('` + card + ` .url').textContent.includes("<")`},
	} {
		b.do("focus "+c.focus, chromedp.Focus(chromedp.CSS(c.focus)), chromedp.KeyEvent(c.key))
		b.until(c.want)
	}
}
