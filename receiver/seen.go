package receiver

import (
	"crypto/sha256"
	"sync"
)

// maxSeenTokens bounds the table of Mailgun's tokens: some 10 MB.
const maxSeenTokens = 65536

type sum = [sha256.Size]byte

// tokenTable remembers which content each signed token came with. It is bounded,
// the oldest goes first, and a restart forgets it: it makes a forgery by somebody who
// has seen a request harder, not impossible.
type tokenTable struct {
	mu sync.Mutex
	// stored are the tokens whose content is durable, in a ring of the order they
	// came in.
	stored map[sum]sum
	ring   []sum
	next   int
	max    int
	// pending are the tokens whose content is on its way to the store.
	pending map[sum]pendingToken
}

type pendingToken struct {
	content sum
	n       int
}

func newTokenTable(limit int) *tokenTable {
	return &tokenTable{stored: map[sum]sum{}, pending: map[sum]pendingToken{}, max: limit}
}

// claim says whether the token may come with this content: it never came with
// another. Then settle must be called, once, with whether the content was stored;
// only if it was does the claim last, so that a delivery that could not be stored
// binds nobody.
func (t *tokenTable) claim(token, content sum) (settle func(stored bool), ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c, found := t.stored[token]; found && c != content {
		return nil, false
	}
	p := t.pending[token]
	if p.n > 0 && p.content != content {
		return nil, false
	}
	t.pending[token] = pendingToken{content, p.n + 1}
	return func(stored bool) { t.settle(token, content, stored) }, true
}

func (t *tokenTable) settle(token, content sum, stored bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.pending[token]
	if p.n--; p.n > 0 {
		t.pending[token] = p
	} else {
		delete(t.pending, token)
	}
	if _, found := t.stored[token]; !stored || found {
		return
	}
	if len(t.ring) < t.max {
		t.ring = append(t.ring, token)
	} else {
		delete(t.stored, t.ring[t.next])
		t.ring[t.next] = token
		t.next = (t.next + 1) % t.max
	}
	t.stored[token] = content
}
