package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-json"
	"github.com/goccy/go-json/jsontext"
	"github.com/spf13/cobra"
	"golang.org/x/time/rate"

	"github.com/blessd/blessd/receiver"
	"github.com/blessd/blessd/testdata"
)

// formType is the content type of a form.
const formType = "application/x-www-form-urlencoded"

// sample is one event as its provider sends it, without what signs it.
type sample struct {
	provider    string
	event       string // in the provider's words, as a file name
	contentType string
	body        []byte
}

// samples returns one sample of every event kind of a provider, sorted.
func samples(provider string) ([]sample, error) {
	files, err := fs.ReadDir(testdata.Samples, provider)
	if err != nil {
		return nil, fmt.Errorf("no samples of %s: %w", provider, err)
	}
	var all []sample
	for _, f := range files {
		name, isSample := strings.CutPrefix(f.Name(), "sample-")
		ext := path.Ext(name)
		if !isSample {
			continue
		}
		s := sample{provider: provider, event: strings.TrimSuffix(name, ext), contentType: "application/json"}
		if ext == ".form" {
			s.contentType = formType
		}
		if s.body, err = fs.ReadFile(testdata.Samples, path.Join(provider, f.Name())); err != nil {
			return nil, fmt.Errorf("read a sample: %w", err)
		}
		s.body = bytes.TrimSpace(s.body) // the newline is the file's
		all = append(all, s)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no samples of %s", provider)
	}
	return all, nil
}

// chooseSamples returns the named samples of a provider, or all.
func chooseSamples(provider string, events []string) ([]sample, error) {
	all, err := samples(provider)
	if err != nil || len(events) == 0 {
		return all, err
	}
	names := make([]string, len(all))
	for i, s := range all {
		names[i] = s.event
	}
	chosen := make([]sample, len(events))
	for i, e := range events {
		at := slices.Index(names, e)
		if at < 0 {
			return nil, fmt.Errorf("%w: %s has no event %q%s (it has: %s)", errUsage, provider, e, didYouMean(e, names), strings.Join(names, ", "))
		}
		chosen[i] = all[at]
	}
	return chosen, nil
}

// freshRule says how to renew one value of a sample.
type freshRule struct {
	pointer string // a pattern of path.Match over JSON pointers
	unless  string // not in bodies that contain this
	renew   func(f freshness, old string) string
}

// freshness is what makes one request differ from the one before.
type freshness struct {
	now    time.Time
	suffix string // letters and digits
	number int64
}

func newFreshness(now time.Time) (freshness, error) {
	n, err := rand.Int(rand.Reader, big.NewInt(1<<31))
	if err != nil {
		return freshness{}, fmt.Errorf("draw a random number: %w", err)
	}
	return freshness{now: now, suffix: strings.ToLower(rand.Text()[:10]), number: 1 + n.Int64()}, nil
}

func suffixed(f freshness, old string) string {
	if len(old) <= 2 || old[0] != '"' {
		return old // an empty id stays empty
	}
	return old[:len(old)-1] + "-" + f.suffix + `"`
}

func milliseconds(f freshness, _ string) string { return strconv.FormatInt(f.now.UnixMilli(), 10) }

func seconds(f freshness, _ string) string { return strconv.FormatInt(f.now.Unix(), 10) }

func fractionalSeconds(f freshness, _ string) string {
	return fmt.Sprintf("%d.%06d", f.now.Unix(), f.now.Nanosecond()/1000)
}

func number(f freshness, _ string) string { return strconv.FormatInt(f.number, 10) }

// tesRules are SendClean's and Sarv's, which are one platform.
var tesRules = []freshRule{
	{pointer: "/_id", renew: suffixed},
	{pointer: "/x_unique_id", renew: suffixed},
	{pointer: "/ts", renew: milliseconds},
	{pointer: "/msg/opens/*/openTs", renew: milliseconds},
	{pointer: "/msg/clicks/*/clickTs", renew: milliseconds},
}

// freshRules renew what the normalizer identifies each provider's events by, and
// their times.
var freshRules = map[string][]freshRule{
	"enkod": {
		{pointer: "/message_uid", renew: suffixed},
	},
	"mailgun": {
		{pointer: "/id", renew: suffixed},
		{pointer: "/timestamp", renew: fractionalSeconds},
	},
	"sarv":      tesRules,
	"sendclean": tesRules,
	"vision6": {
		{pointer: "/*/timestamp", renew: seconds},
		{pointer: "/*/contact_id", renew: number},
		{pointer: "/*/list_id", renew: number, unless: `"contact_id"`},
		{pointer: "/timestamp", renew: seconds},
		{pointer: "/contact_id", renew: number},
		{pointer: "/list_id", renew: number, unless: `"contact_id"`},
	},
}

// formMessageID finds where the message's id begins in a form.
var formMessageID = regexp.MustCompile(`((?:^|&)(?i:message-id)=(?:%3C)?)`)

// fresh returns the sample as a new event of now: an id that was seen before
// would be suppressed as a redelivery.
func (s sample) fresh(f freshness) (sample, error) {
	if s.contentType == formType {
		// A legacy form of Mailgun is signed by adding the time and a token to it;
		// the message's id is all that has to change as well.
		s.body = formMessageID.ReplaceAll(s.body, []byte("${1}"+f.suffix+"."))
		return s, nil
	}
	var err error
	s.body, err = rewrite(s.body, func(pointer, old string) string {
		for _, r := range freshRules[s.provider] {
			if ok, _ := path.Match(r.pointer, pointer); ok && (r.unless == "" || !bytes.Contains(s.body, []byte(r.unless))) {
				return r.renew(f, old)
			}
		}
		return old
	})
	if err == nil {
		// As providers write it; the files are for reading.
		err = (*jsontext.Value)(&s.body).Compact(jsontext.PreserveRawStrings(true))
	}
	if err != nil {
		return s, fmt.Errorf("sample %s %s: %w", s.provider, s.event, err)
	}
	return s, nil
}

// rewrite replaces strings and numbers of a JSON text by what change returns for
// their JSON pointer and text, and leaves every other byte as it is.
func rewrite(text []byte, change func(pointer, old string) string) ([]byte, error) {
	var out bytes.Buffer
	d := jsontext.NewDecoder(bytes.NewReader(text))
	done := 0
	for {
		switch d.PeekKind() {
		case '"', '0':
			v, err := d.ReadValue()
			if err != nil {
				return nil, fmt.Errorf("read JSON: %w", err)
			}
			if kind, n := d.StackIndex(d.StackDepth()); kind == '{' && n%2 == 1 {
				continue // a name
			}
			end := int(d.InputOffset())
			out.Write(text[done : end-len(v)])
			out.WriteString(change(string(d.StackPointer()), string(v)))
			done = end
		default:
			_, err := d.ReadToken()
			if errors.Is(err, io.EOF) {
				out.Write(text[done:])
				return out.Bytes(), nil
			}
			if err != nil {
				return nil, fmt.Errorf("read JSON: %w", err)
			}
		}
	}
}

// hook is one webhook URL of a receiver and what is needed to be believed there.
type hook struct {
	provider, endpoint string
	post               string          // where to post to
	registered         string          // what the provider was given, which is signed over
	token              string          // the part of post that no output shows
	key                receiver.Secret // empty where nothing is signed
	header             http.Header     // what is sent along, or nil
	sample             bool            // key or, where nothing is signed, token is blessd's own: the events are marked as a test
	reported           bool            // a wrong signature is only reported
	awaiting           bool            // no key of the provider's own is there yet
}

// unmarked says why the events that this makes are not marked as a test, or "" when
// they are, or when what is sent is to be refused.
func (h hook) unmarked(bad bool) string {
	switch {
	case bad && h.reported:
		return "a wrong signature is only reported and the token or password is real"
	case bad, h.sample:
		return ""
	case h.key != "":
		return "signed with its real key"
	case h.token != "":
		return "sent with its real token"
	}
	return "it has no sample token"
}

// spoil returns h with a wrong key or, where nothing is signed, a wrong token.
func (h hook) spoil() (hook, error) {
	switch {
	case h.key != "":
		return h.withWrongKey(), nil
	case h.token != "":
		return h.withWrongToken(), nil
	}
	return h, fmt.Errorf("%s signs nothing and the endpoint %s has no token: there is nothing to get wrong", h.provider, h.endpoint)
}

func (h hook) withWrongKey() hook {
	h.key = receiver.Secret(rand.Text())
	return h
}

func (h hook) withWrongToken() hook {
	h.post = strings.TrimSuffix(h.post, h.token)
	h.token = rand.Text()
	h.post += h.token
	return h
}

// shown is the URL without the token.
func (h hook) shown() string {
	if h.token == "" {
		return h.post
	}
	return strings.TrimSuffix(h.post, h.token) + "\u2026"
}

// request makes what the provider would send for the sample at that time.
func (h hook) request(s sample, now time.Time) (receiver.Signed, error) {
	body, contentType := s.body, s.contentType
	if h.provider == "sendclean" || h.provider == "sarv" {
		// The platform posts a batch as a string in a form field; this name is the
		// one that a receiver of live data was written for.
		body = []byte(url.Values{"sarvtes_events": {"[" + string(body) + "]"}}.Encode())
		contentType = formType
	}
	r, err := receiver.Sign(receiver.Plain{
		Provider: h.provider, URL: h.registered, Key: h.key, Now: now, Body: body, ContentType: contentType,
	})
	if err != nil {
		return r, fmt.Errorf("sign the sample %s %s: %w", s.provider, s.event, err)
	}
	if r.Header == nil {
		r.Header = make(http.Header)
	}
	maps.Copy(r.Header, h.header)
	r.Header.Set("Content-Type", r.ContentType)
	return r, nil
}

// reply is what the receiver answered, and how long that took.
type reply struct {
	status int
	body   string
	took   time.Duration
}

// blessed tells whether r is the acknowledgement that the provider wants.
func (r reply) blessed(provider string) bool {
	return r.status == http.StatusOK && r.body == receiver.Acknowledgement(provider)
}

// client follows no redirect: no provider does, and blessd sends none.
func client() *http.Client {
	return &http.Client{
		Timeout:       30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// deliver posts the request. Its errors do not show the URL, which is a secret.
func (h hook) deliver(ctx context.Context, c *http.Client, signed receiver.Signed) (reply, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, h.post, bytes.NewReader(signed.Body))
	if err != nil {
		return reply{}, errors.New("make the request: the URL cannot be used")
	}
	maps.Copy(q.Header, signed.Header)
	q.Header.Set("User-Agent", "blessd-send")
	start := time.Now()
	r, err := c.Do(q)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		return reply{}, fmt.Errorf("post to %s: %w", h.shown(), err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(io.LimitReader(r.Body, 4<<10))
	if err != nil {
		return reply{}, fmt.Errorf("read the answer of %s: %w", h.shown(), err)
	}
	return reply{status: r.StatusCode, body: string(body), took: time.Since(start)}, nil
}

// curl returns a command line for a POSIX shell that sends the same bytes. The
// URL in it is whole: it is of no use without the token.
func (h hook) curl(signed receiver.Signed) string {
	words := []string{"curl", "-sS", "-i", quote(h.post)}
	for _, name := range slices.Sorted(maps.Keys(signed.Header)) {
		for _, v := range signed.Header[name] {
			words = append(words, "-H", quote(name+": "+v))
		}
	}
	return strings.Join(append(words, "--data-raw", quote(string(signed.Body))), " ")
}

// quote makes one word of s, in which a POSIX shell changes nothing.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// sendOptions is the command line of send.
type sendOptions struct {
	running          overrides
	endpoint         string
	url, keyFile     string
	yes, all         bool
	bad, fresh, curl bool
	count            int
	rate             float64
	format           string
	provider         string
	events           []string
}

func newSendCommand() *cobra.Command {
	var o sendOptions
	cmd := &cobra.Command{
		Use:   "send PROVIDER [EVENT]...",
		Short: "Send samples to a running blessd, signed as the provider would",
		Long: `Sends samples to a running blessd as the provider would: the same body, signed
in the same way. Without EVENT it sends one sample of every event kind of the
provider; with --all and no PROVIDER, of every provider.

It finds the running blessd, its tokens and its keys through the configuration
or the data directory. --url sends to any receiver instead, signed with the key
in --key-file.

Each request is a new event of now. With --fresh=false the sample goes out as it
is stored, so that a second time it is a redelivery, which blessd suppresses.

With --count above 1 there is a line for each request that was not answered as
it should be, and one for all of them at the end.

Exit status: 0 when every request was acknowledged as the provider expects (with
--bad-signature: refused), 1 when one was not, 2 when the command line is wrong.`,
		Example: `  blessd send sendclean hard_bounce
  blessd send mailgun
  blessd send --all
  blessd send sarv open --count 100 --rate 20
  blessd send mailgun delivered --bad-signature
  blessd send sendclean click --print-curl
  blessd send mailgun opened --url http://127.0.0.1:9000/hooks/eu --key-file eu.key`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) > 0 && !slices.Contains(receiver.Providers(), args[0]):
				return fmt.Errorf("no provider %q%s", args[0], didYouMean(args[0], receiver.Providers()))
			case len(args) == 0 && !o.all:
				return fmt.Errorf("which PROVIDER: %s, or --all", strings.Join(receiver.Providers(), ", "))
			case len(args) > 1 && o.all:
				return errors.New("--all and EVENT exclude each other")
			}
			return nil
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return receiver.Providers(), cobra.ShellCompDirectiveNoFileComp
			}
			var names []string
			all, _ := samples(args[0]) // no completion for what there is no sample of
			for _, s := range all {
				names = append(names, s.event)
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				o.provider, o.events = args[0], args[1:]
			}
			for _, other := range []string{"config", "data-dir", "endpoint", "public-url"} {
				if err := exclusive(cmd, "url", other); err != nil {
					return err
				}
			}
			switch {
			case o.format != "text" && o.format != "json":
				return badFormat(o.format)
			case o.count < 1:
				return fmt.Errorf("%w: --count %d is less than 1", errUsage, o.count)
			case o.rate < 0:
				return fmt.Errorf("%w: --rate %g is negative", errUsage, o.rate)
			case o.url != "" && o.provider == "":
				return fmt.Errorf("%w: --url needs a PROVIDER", errUsage)
			case o.url == "" && o.keyFile != "":
				return fmt.Errorf("%w: --key-file is for --url", errUsage)
			case o.endpoint != "" && o.provider == "":
				return fmt.Errorf("%w: --endpoint needs a PROVIDER", errUsage)
			}
			return send(cmd.Context(), o, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	addFindFlags(cmd, &o.running)
	f.StringVar(&o.running.PublicURL, "public-url", "", "what to sign over (default: what serve was given)")
	f.StringVar(&o.endpoint, "endpoint", "", "`NAME` of the endpoint (default: the provider's first)")
	f.BoolVar(&o.all, "all", false, "every event kind; without PROVIDER, of every provider")
	f.BoolVar(&o.bad, "bad-signature", false, "sign with a wrong key or, where nothing is signed, use a wrong token")
	f.BoolVar(&o.fresh, "fresh", true, "make each request a new event of now")
	f.IntVar(&o.count, "count", 1, "send each sample `N` times")
	f.Float64Var(&o.rate, "rate", 0, "at most `R` requests per second, 0 for no limit")
	f.BoolVar(&o.curl, "print-curl", false, "send nothing, print a curl command that would; the URL's token is in it")
	f.StringVar(&o.url, "url", "", "`URL` to send to instead of a running blessd; it is signed over as it is")
	f.StringVar(&o.keyFile, "key-file", "", "`FILE` with the signature key, for --url")
	f.BoolVar(&o.yes, "yes", false, "send to a URL that is not on this machine")
	addFormatFlag(cmd, &o.format)
	return cmd
}

// parcel is samples and where they go.
type parcel struct {
	hook    hook
	samples []sample
}

// parcels finds out what goes where.
func (o sendOptions) parcels(talk io.Writer) ([]parcel, error) {
	if o.provider != "" {
		// A wrong word is wrong whether anything runs or not.
		if _, err := chooseSamples(o.provider, o.events); err != nil {
			return nil, err
		}
	}
	hooks, err := o.hooks()
	if err != nil {
		return nil, err
	}
	all := make([]parcel, len(hooks))
	for i, h := range hooks {
		if why := h.unmarked(o.bad); why != "" && o.url == "" {
			fmt.Fprintf(talk, "endpoint %s: %s, so the events are not marked as a test\n", h.endpoint, why)
		}
		chosen, err := chooseSamples(h.provider, o.events)
		if err != nil {
			return nil, err
		}
		all[i] = parcel{h, chosen}
	}
	return all, nil
}

// hooks returns one hook of each provider that is asked for.
func (o sendOptions) hooks() ([]hook, error) {
	if o.url != "" {
		h, err := o.urlHook()
		return []hook{h}, err
	}
	running, err := runningHooks(&o.running)
	if err != nil {
		return nil, err
	}
	var chosen []hook
	for _, p := range receiver.Providers() {
		isOf := func(h hook) bool { return h.provider == p }
		if p == o.provider || o.provider == "" && slices.ContainsFunc(running, isOf) {
			h, err := pickHook(running, p, o.endpoint)
			if err != nil {
				return nil, err
			}
			chosen = append(chosen, h)
		}
	}
	return chosen, nil
}

// urlHook is the hook that the command line describes.
func (o sendOptions) urlHook() (hook, error) {
	u, err := url.Parse(o.url)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return hook{}, fmt.Errorf("%w: --url is no http:// or https:// URL", errUsage)
	}
	ip := net.ParseIP(u.Hostname())
	if local := u.Hostname() == "localhost" || ip != nil && ip.IsLoopback(); !local && !o.yes {
		return hook{}, fmt.Errorf("%w: %s is not on this machine: --yes sends to it all the same", errUsage, u.Host)
	}
	h := hook{provider: o.provider, endpoint: u.Host, post: o.url, registered: o.url}
	// /hooks/<endpoint>/<token>
	if part := strings.Split(u.EscapedPath(), "/"); len(part) == 4 && part[1] == "hooks" {
		h.endpoint, h.token = part[2], part[3]
	}
	switch {
	case o.keyFile != "":
		key, err := readKey(o.keyFile, signatureKey)
		if err != nil {
			return h, fmt.Errorf("key file %s: %s", o.keyFile, reason(err))
		}
		h.key = key.Value
	case signs(o.provider):
		return h, fmt.Errorf("%w: %s signs its requests: give the key with --key-file", errUsage, o.provider)
	}
	return h, nil
}

// pickHook chooses among the hooks of a running blessd.
func pickHook(hooks []hook, provider, endpoint string) (hook, error) {
	var have []string
	for _, h := range hooks {
		switch {
		case h.provider == provider && (endpoint == "" || endpoint == h.endpoint):
			return h, h.usable()
		case endpoint != "" && h.endpoint == endpoint:
			return h, fmt.Errorf("%w: the endpoint %s is for %s", errUsage, endpoint, h.provider)
		}
		have = append(have, h.endpoint+" ("+h.provider+")")
	}
	if endpoint != "" {
		return hook{}, fmt.Errorf("no endpoint %s is configured; there is: %s", endpoint, strings.Join(have, ", "))
	}
	return hook{}, fmt.Errorf("no endpoint of %s is configured; there is: %s", provider, strings.Join(have, ", "))
}

// sent is one line of `send -o json`.
type sent struct {
	Provider string  `json:"provider"`
	Endpoint string  `json:"endpoint"`
	Event    string  `json:"event"`
	URL      string  `json:"url"` // without the token
	Status   int     `json:"status"`
	Answer   string  `json:"answer"`
	Millis   float64 `json:"milliseconds"`
	Expected bool    `json:"expected"`
	Note     string  `json:"note,omitempty"`
}

// judge says whether the answer is what it should be, and what to make of it.
func judge(h hook, bad bool, r reply) (expected bool, note string) {
	blessed := r.blessed(h.provider)
	switch {
	case bad && blessed && h.reported:
		return true, "this endpoint only reports wrong signatures and relies on its token; `signature: enforce` refuses them"
	case bad && blessed:
		return false, "blessed in spite of a wrong signature"
	case bad && h.awaiting && r.status == http.StatusServiceUnavailable:
		return true, "the provider's own key is not there yet, so it is asked to come again"
	case bad:
		return r.status == http.StatusUnauthorized || r.status == http.StatusNotFound, ""
	case blessed:
		return true, ""
	}
	switch r.status {
	case http.StatusOK:
		return false, fmt.Sprintf("not the acknowledgement %q", receiver.Acknowledgement(h.provider))
	case http.StatusUnauthorized:
		return false, "not believed: is this the key that the running blessd has?"
	case http.StatusNotFound:
		return false, "not known there: has the endpoint or its token changed?"
	case http.StatusServiceUnavailable:
		return false, "it cannot take deliveries now: its log says why"
	}
	return false, "not an acknowledgement"
}

// send sends everything, in order, and says what was answered.
func send(ctx context.Context, o sendOptions, out, talk io.Writer) error {
	parcels, err := o.parcels(talk)
	if err != nil {
		return err
	}
	wait := rate.NewLimiter(rate.Inf, 1)
	if o.rate > 0 {
		wait.SetLimit(rate.Limit(o.rate))
	}
	all := tally{Refused: make(map[int]int), start: time.Now()}
	err = o.sendAll(ctx, parcels, wait, &all, out, talk)
	if o.count > 1 && all.Sent > 0 {
		err = errors.Join(err, o.summarize(out, &all))
	}
	if err == nil && all.Unexpected > 0 {
		return fmt.Errorf("%d of %d requests were not answered as they should be", all.Unexpected, all.Sent)
	}
	return err
}

func (o sendOptions) sendAll(ctx context.Context, parcels []parcel, wait *rate.Limiter, all *tally, out, talk io.Writer) (err error) {
	c, said := client(), all.start
	total := 0
	for _, p := range parcels {
		total += o.count * len(p.samples)
	}
	for range o.count {
		for _, p := range parcels {
			h := p.hook
			if o.bad {
				if h, err = h.spoil(); err != nil {
					return err
				}
			}
			for _, s := range p.samples {
				if err := wait.Wait(ctx); err != nil {
					return all.interrupted()
				}
				signed, err := h.prepare(s, o.fresh)
				if err != nil {
					return err
				}
				if o.curl {
					if _, err := fmt.Fprintf(out, "# %s %s\n%s\n", s.provider, s.event, h.curl(signed)); err != nil {
						return fmt.Errorf("write: %w", err)
					}
					continue
				}
				r, err := h.deliver(ctx, c, signed)
				switch {
				case ctx.Err() != nil:
					return all.interrupted()
				case err != nil:
					return fmt.Errorf("%w (is blessd running there? `blessd serve` starts it)", err)
				}
				expected, note := judge(h, o.bad, r)
				all.add(r, r.blessed(h.provider), expected)
				if now := time.Now(); o.count > 1 && now.Sub(said) >= progressEvery {
					fmt.Fprintf(talk, "%d of %d sent, %d acknowledged\n", all.Sent, total, all.Acknowledged)
					said = now
				}
				if expected && o.count > 1 {
					continue // the summary has it
				}
				if err := o.report(out, h, s, r, expected, note, p.widest()); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// tally is what became of many requests: the last line of `send --count N`.
type tally struct {
	Sent         int         `json:"sent"`
	Acknowledged int         `json:"acknowledged"`
	Refused      map[int]int `json:"refused"` // by status: what was not acknowledged
	Unexpected   int         `json:"unexpected"`
	Seconds      float64     `json:"seconds"`
	Rate         float64     `json:"per_second"`
	P50          float64     `json:"p50_milliseconds"`
	P99          float64     `json:"p99_milliseconds"`

	start time.Time
	took  []time.Duration
}

func (t *tally) add(r reply, blessed, expected bool) {
	t.Sent++
	t.took = append(t.took, r.took)
	if blessed {
		t.Acknowledged++
	} else {
		t.Refused[r.status]++
	}
	if !expected {
		t.Unexpected++
	}
}

func (t *tally) interrupted() error {
	return fmt.Errorf("interrupted after %s", count(t.Sent, "request"))
}

// finish computes what is known at the end.
func (t *tally) finish(now time.Time) {
	t.Seconds = now.Sub(t.start).Seconds()
	if t.Seconds > 0 {
		t.Rate = float64(t.Sent) / t.Seconds
	}
	slices.Sort(t.took)
	rank := func(percent int) float64 {
		if len(t.took) == 0 {
			return 0
		}
		return float64(t.took[(len(t.took)*percent+99)/100-1].Microseconds()) / 1000
	}
	t.P50, t.P99 = rank(50), rank(99)
}

// String is the summary for people.
func (t *tally) String() string {
	var refused []string
	n := 0
	for _, status := range slices.Sorted(maps.Keys(t.Refused)) {
		n += t.Refused[status]
		refused = append(refused, fmt.Sprintf("%d: %d", status, t.Refused[status]))
	}
	by := ""
	if n > 0 {
		by = " (" + strings.Join(refused, ", ") + ")"
	}
	return fmt.Sprintf("sent %d, acknowledged %d, refused %d%s, in %.1f s, %.0f/s, p50 %.1f ms, p99 %.1f ms",
		t.Sent, t.Acknowledged, n, by, t.Seconds, t.Rate, t.P50, t.P99)
}

// summarize writes the last line.
func (o sendOptions) summarize(out io.Writer, all *tally) error {
	all.finish(time.Now())
	line := []byte(all.String())
	if o.format == "json" {
		var err error
		if line, err = json.Marshal(all); err != nil {
			return fmt.Errorf("encode the summary: %w", err)
		}
	}
	if _, err := out.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// prepare makes the request for the sample, as a new event when fresh is true.
func (h hook) prepare(s sample, fresh bool) (receiver.Signed, error) {
	now := time.Now()
	if fresh {
		f, err := newFreshness(now)
		if err != nil {
			return receiver.Signed{}, err
		}
		if s, err = s.fresh(f); err != nil {
			return receiver.Signed{}, err
		}
	}
	return h.request(s, now)
}

// widest is the length of the longest event name, to align what follows.
func (p parcel) widest() int {
	n := 0
	for _, s := range p.samples {
		n = max(n, len(s.event))
	}
	return n
}

// report writes one line about one request.
func (o sendOptions) report(out io.Writer, h hook, s sample, r reply, expected bool, note string, width int) error {
	millis := float64(r.took.Microseconds()) / 1000
	var line []byte
	if o.format == "json" {
		var err error
		line, err = json.MarshalWithOption(sent{
			Provider: s.provider, Endpoint: h.endpoint, Event: s.event, URL: h.shown(),
			Status: r.status, Answer: r.body, Millis: millis, Expected: expected, Note: note,
		}, json.DisableHTMLEscape())
		if err != nil {
			return fmt.Errorf("encode the answer: %w", err)
		}
	} else {
		status := paint(strconv.Itoa(r.status), green, colours(out) && expected)
		if !expected {
			status = paint(strconv.Itoa(r.status), red, colours(out))
		}
		line = fmt.Appendf(nil, "POST %s  %-*s  %s in %.1f ms  %s", h.path(), width, s.event, status, millis, strconv.QuoteToASCII(strings.TrimSpace(r.body)))
		if note != "" {
			line = append(line, "  ("+note+")"...)
		}
	}
	if _, err := out.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// path is the path of the URL without the token.
func (h hook) path() string {
	shown := h.shown()
	if _, rest, ok := strings.Cut(shown, "://"); ok {
		if at := strings.IndexByte(rest, '/'); at >= 0 {
			return rest[at:]
		}
	}
	return shown
}
