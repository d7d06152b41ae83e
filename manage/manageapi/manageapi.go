// Package manageapi plays the providers' management APIs, for tests: written from
// the providers' documents alone, it shares no code with the clients in manage.
// Each server checks method, path, headers, body and credentials, keeps its
// webhooks, and answers with the documented errors. On demand it misbehaves as
// servers do.
//
// The server of SendClean and Sarv calls the webhook's URL while it registers it,
// and wants to hear the blessing; and it delivers events, signed with the key that
// is in force at that moment.
package manageapi

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Fault is one misbehaviour. A call that meets it is not executed unless Executed
// is set.
type Fault struct {
	// Call is which call it meets, like settings/addWebhook or GET; empty is any.
	Call string
	// Executed has the call take effect before the answer goes wrong.
	Executed bool
	// Status, Header and Body are the answer. Status 0 is 200.
	Status int
	Header http.Header
	Body   string
	// Cut, if more than 0, breaks the true answer off after as many bytes.
	Cut int
	// Hang answers nothing until the client gives up.
	Hang bool
	// Drop closes the connection without an answer.
	Drop bool
	// Echo puts the request, credentials and all, into the answer's body after Body.
	Echo bool
}

// Call is a request that was made.
type Call struct {
	// Name is the call: settings/listWebhook, GET /v3/domains/d/webhooks, addWebhook.
	Name string
	// At is when it arrived.
	At time.Time
}

// recorder is what all servers have: faults to come, calls that were, and what was
// wrong with them.
type recorder struct {
	mu     sync.Mutex
	faults []Fault
	calls  []Call
	wrong  []string
}

// Misbehave has the next calls meet these faults, each once, in order.
func (r *recorder) Misbehave(faults ...Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = append(r.faults, faults...)
}

// Calls returns the calls so far, refused ones too.
func (r *recorder) Calls() []Call {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.calls)
}

// Wrong returns what was wrong with requests by the documents: a test of a client
// wants it empty.
func (r *recorder) Wrong() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.wrong)
}

// note records a call and returns the fault that it meets, if any.
func (r *recorder) note(name, kind string) *Fault {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, Call{name, time.Now()})
	for i, f := range r.faults {
		if f.Call == "" || f.Call == name || f.Call == kind {
			r.faults = slices.Delete(r.faults, i, i+1)
			return &f
		}
	}
	return nil
}

func (r *recorder) complain(format string, a ...any) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := fmt.Sprintf(format, a...)
	r.wrong = append(r.wrong, s)
	return s
}

// answer is what a call comes to.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// serve reads the request, executes it, and answers, well or badly.
func (r *recorder) serve(w http.ResponseWriter, q *http.Request, name, kind string, execute func(body []byte) answer) {
	body, err := io.ReadAll(http.MaxBytesReader(w, q.Body, 1<<20))
	if err != nil {
		http.Error(w, "the body cannot be read", http.StatusBadRequest)
		return
	}
	fault := r.note(name, kind)
	if fault == nil {
		write(w, execute(body))
		return
	}
	var real answer
	if fault.Executed || fault.Cut > 0 {
		real = execute(body)
	}
	switch {
	case fault.Hang:
		<-q.Context().Done()
		return
	case fault.Drop:
		panic(http.ErrAbortHandler)
	case fault.Cut > 0:
		real.body = real.body[:min(fault.Cut, len(real.body))]
		write(w, real)
		return
	}
	a := answer{status: fault.Status, header: fault.Header, body: []byte(fault.Body)}
	if fault.Echo {
		var b bytes.Buffer
		b.WriteString(fault.Body)
		_ = q.Header.Write(&b) // a buffer takes everything
		b.Write(body)
		a.body = b.Bytes()
	}
	write(w, a)
}

func write(w http.ResponseWriter, a answer) {
	maps.Copy(w.Header(), a.header)
	if a.status == 0 {
		a.status = http.StatusOK
	}
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "application/json")
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body)
}
