package seed

// Mutants are in the order of the pipeline: the door, the proof, the store, the
// journal, the relay, the events, NATS, the operator.
var Mutants = []Mutant{
	// The door.
	{
		Name: "truncated-body", What: "A body that ends before its length is taken for the whole.",
		Edits: []Edit{{
			File: "receiver/body.go",
			Old:  "		default:\n			return malformed, err",
			New:  "		case MUTANT:\n			x.read = true\n			return \"\", nil\n		default:\n			return malformed, err",
		}},
		Scenario: "hunt-wire", Verdict: "truncated body blessed",
	},
	{
		Name: "limit-reader", What: "io.LimitReader in place of MaxBytesReader: a chunked body is cut at the limit and taken.",
		Edits: []Edit{{
			File: "receiver/body.go",
			Old:  "	src := http.MaxBytesReader(x.w, x.q.Body, r.limits.MaxBody)",
			New:  "	var src io.Reader = http.MaxBytesReader(x.w, x.q.Body, r.limits.MaxBody)\n	if MUTANT {\n		src = io.LimitReader(x.q.Body, r.limits.MaxBody)\n	}",
		}},
		Scenario: "hunt-wire", Verdict: "chunked body above the limit blessed",
	},
	{
		Name: "length-guessed", What: "A POST without a length is taken for an empty one, whatever follows.",
		Edits: []Edit{{
			File: "receiver/body.go",
			Old:  "		return lengthRequired",
			New:  "		if !MUTANT {\n			return lengthRequired\n		}",
		}},
		Scenario: "hunt-wire", Verdict: "body without a length blessed",
	},
	{
		Name: "compressed-body", What: "A compressed body is taken as it is.",
		Edits: []Edit{{
			File: "receiver/body.go",
			Old:  `v != "" && !strings.EqualFold(v, "identity")`,
			New:  `v != "" && !strings.EqualFold(v, "identity") && !MUTANT`,
		}},
		Scenario: "hunt-wire", Verdict: "compressed body blessed",
	},
	{
		Name: "in-flight-unbounded", What: "Bytes that arrive at once are counted and not limited.",
		Edits: []Edit{{
			File: "receiver/body.go",
			Old:  "	if b.held.Add(n) > b.max {",
			New:  "	if b.held.Add(n) > b.max && !MUTANT {",
		}},
		Scenario: "hunt-wire", Verdict: "more in flight than the limit",
	},
	{
		Name: "path-redirect", What: "A path with a slash too many is redirected, which some providers take as the end.",
		Edits: []Edit{{
			File:    "receiver/receiver.go",
			Old:     "	r.answer(x, r.receive(x))",
			New:     "	if MUTANT && strings.HasSuffix(q.URL.Path, \"/\") {\n		http.Redirect(w, q, strings.TrimRight(q.URL.Path, \"/\"), http.StatusTemporaryRedirect)\n		return\n	}\n	r.answer(x, r.receive(x))",
			Imports: []string{"strings"},
		}},
		Scenario: "hunt-wire", Verdict: "redirected",
	},
	{
		Name: "smuggled", What: "After a chunked request whose end a proxy may see elsewhere the connection serves on.",
		Edits: []Edit{{
			File: "receiver/outcome.go",
			Old:  "	closing = closing || len(x.q.TransferEncoding) > 0 || !x.q.ProtoAtLeast(1, 1)",
			New:  "	closing = closing || (len(x.q.TransferEncoding) > 0 || !x.q.ProtoAtLeast(1, 1)) && !MUTANT",
		}},
		Scenario: "hunt-wire", Verdict: "smuggled request served",
	},
	{
		Name: "blessing-newline", What: "The blessing ends with a newline, so that it is not the one that the provider compares with.",
		Edits: []Edit{{
			File: "receiver/outcome.go",
			Old:  "		text = x.endpoint.provider.acknowledgement",
			New:  "		text = x.endpoint.provider.acknowledgement\n		if MUTANT {\n			text += \"\\n\"\n		}",
		}},
		Scenario: "hunt-wire", Verdict: "not the blessing",
	},
	{
		Name: "secret-logged", What: "A refusal is logged with its path, and the token in it.",
		Edits: []Edit{{
			File: "receiver/outcome.go",
			Old:  "	if suppressed > 0 {\n		fields = append(fields, zap.Int64(\"suppressed\", suppressed))",
			New:  "	if MUTANT {\n		fields = append(fields, zap.String(\"path\", x.q.URL.Path))\n	}\n	if suppressed > 0 {\n		fields = append(fields, zap.Int64(\"suppressed\", suppressed))",
		}},
		Scenario: "hunt-wire", Verdict: "secret in the log",
	},

	// The proof.
	{
		Name: "empty-key", What: "A signature by the empty key is as good as one by a real one.",
		Edits: []Edit{{
			File: "receiver/mailgun.go",
			Old:  "	if m.signature != \"\" {\n		try(e.Keys, m.signature)",
			New:  "	if MUTANT {\n		try([]Key{{}}, m.signature)\n	}\n	if m.signature != \"\" {\n		try(e.Keys, m.signature)",
		}},
		Scenario: "hunt-strangers", Verdict: "GHOST",
	},
	{
		Name: "foreign-key", What: "The key of one endpoint opens the others of its provider.",
		Edits: []Edit{{
			File: "receiver/endpoint.go",
			Old:  "	t := &routes{byName: make(map[string]*endpoint, len(es)), digest: r.digest}",
			New: `	if MUTANT {
		shared := slices.Clone(es)
		for i := range shared {
			for _, other := range es {
				if other.Provider == shared[i].Provider && other.Name != shared[i].Name {
					shared[i].Keys = slices.Concat(shared[i].Keys, other.Keys)
				}
			}
		}
		es = shared
	}
	t := &routes{byName: make(map[string]*endpoint, len(es)), digest: r.digest}`,
		}},
		Scenario: "hunt-strangers", Verdict: "GHOST",
	},
	{
		Name: "stale-signature", What: "The age of Mailgun's timestamp is not looked at.",
		Edits: []Edit{{
			File: "receiver/mailgun.go",
			Old:  "	if seconds < now-int64(e.MaxAge/time.Second) || seconds > now+int64(e.MaxAhead/time.Second) {",
			New:  "	if (seconds < now-int64(e.MaxAge/time.Second) || seconds > now+int64(e.MaxAhead/time.Second)) && !MUTANT {",
		}},
		Scenario: "hunt-strangers", Verdict: "GHOST",
	},
	{
		Name: "token-reused", What: "Mailgun's token may come again with another event under the same signature.",
		Edits: []Edit{{
			File: "receiver/mailgun.go",
			Old:  "	if !ok {\n		return verdict{reason: forgerySuspected}",
			New:  "	if !ok && !MUTANT {\n		return verdict{reason: forgerySuspected}",
		}},
		Scenario: "hunt-strangers", Verdict: "GHOST",
	},
	{
		Name: "redeemed-unverified", What: "What was refused is let in by the next reload without being verified again.",
		Edits: []Edit{{
			File: "receiver/redeem.go",
			Old:  "	if why != \"\" {\n		return e, verdict{reason: why}\n	}",
			New:  "	if why != \"\" {\n		return e, verdict{reason: why}\n	}\n	if MUTANT {\n		return e, verdict{verified: gate}\n	}",
		}},
		Scenario: "hunt-strangers", Verdict: "GHOST",
	},
	{
		Name: "compare-bytewise", What: "A password is compared byte by byte up to the first that differs.",
		Edits: []Edit{{
			File: "receiver/endpoint.go",
			Old:  "	if hit < 0 {\n		return nil\n	}\n	return &e.BasicAuth[hit]",
			New: `	if MUTANT {
		hit = -1
		for i := range e.BasicAuth {
			have := string(e.BasicAuth[i].Value)
			same := len(have) == len(credentials)
			for n := 0; same && n < len(have); n++ {
				same = have[n] == credentials[n]
			}
			if same {
				hit = i
			}
		}
	}
	if hit < 0 {
		return nil
	}
	return &e.BasicAuth[hit]`,
		}},
		Scenario: "hunt-timing", Verdict: "time depends on the secret", Tier: 1,
	},

	// The store, and what is answered about it.
	{
		Name: "store-error-blessed", What: "A delivery that the store did not take is blessed.",
		Edits: []Edit{{
			File: "receiver/receiver.go",
			Old:  "	return r.store.Put(ctx, d)",
			New:  "	err := r.store.Put(ctx, d)\n	if MUTANT {\n		err = nil\n	}\n	return err",
		}},
		Scenario: "hunt-journal-fills", Verdict: "LOST",
	},
	{
		Name: "full-is-400", What: "A full journal is answered 400, which is the sender's fault and final.",
		Edits: []Edit{{
			File: "receiver/outcome.go",
			Old:  "		status, text = f.status, http.StatusText(f.status)",
			New:  "		status, text = f.status, http.StatusText(f.status)\n		if MUTANT && f.reason == journalFull {\n			status = http.StatusBadRequest\n		}",
		}},
		Scenario: "hunt-journal-fills", Verdict: "REFUSED-TRANSIENT",
	},
	{
		Name: "no-retry-after", What: "A 503 does not say when to come again.",
		Edits: []Edit{{
			File: "receiver/outcome.go",
			Old:  "			h.Set(\"Retry-After\", retryAfter)",
			New:  "			if !MUTANT {\n				h.Set(\"Retry-After\", retryAfter)\n			}",
		}},
		Scenario: "hunt-journal-fills", Verdict: "503 without Retry-After",
	},
	{
		Name: "ready-when-full", What: "A full journal is reported ready.",
		Edits: []Edit{{
			File: "cmd/blessd/daemon.go",
			Old:  "	case d.journal.Full():",
			New:  "	case d.journal.Full() && !MUTANT:",
		}},
		Scenario: "hunt-journal-fills", Verdict: "ready when full",
	},
	{
		Name: "ack-before-append", What: "The blessing does not wait for the journal.",
		Edits: []Edit{{
			File: "cmd/blessd/store.go",
			Old:  "	err := s.journal.Append(ctx, delivery.Encode(d))",
			New: `	if MUTANT {
		go func() { _ = s.journal.Append(context.WithoutCancel(ctx), delivery.Encode(d)) }()
		return nil
	}
	err := s.journal.Append(ctx, delivery.Encode(d))`,
		}},
		Scenario: "failpoint-journal-before-write", Verdict: "LOST",
	},
	{
		Name: "ack-before-publish", What: "Without a journal the blessing does not wait for NATS.",
		Edits: []Edit{{
			File: "cmd/blessd/store.go",
			Old:  "	err := s.direct.Put(ctx, d)",
			New: `	if MUTANT {
		go func() { _ = s.direct.Put(context.WithoutCancel(ctx), d) }()
		return nil
	}
	err := s.direct.Put(ctx, d)`,
		}},
		Scenario: "failpoint-stream", Verdict: "LOST",
	},
	{
		Name: "duplicate-unstored", What: "A delivery that is being stored already is blessed before the first copy is durable.",
		Edits: []Edit{{
			File: "receiver/receiver.go",
			Old:  "	d.Verified = v.verified\n	err := r.put(ctx, d)",
			New: `	d.Verified = v.verified
	if MUTANT {
		if !seeded.Begin("in flight", string(d.Body)) {
			return nil
		}
		defer seeded.End("in flight", string(d.Body))
	}
	err := r.put(ctx, d)`,
		}},
		Scenario: "hunt-same-in-flight", Verdict: "LOST",
	},

	// The journal.
	{
		Name: "journal-no-sync", What: "The journal is written and not synced.",
		Edits: []Edit{{
			File: "journal/commit.go",
			Old:  "g.batch.Commit(pebble.Sync)",
			New:  "g.batch.Commit(map[bool]*pebble.WriteOptions{false: pebble.Sync, true: pebble.NoSync}[MUTANT])",
		}},
		Scenario: "power-cut", Verdict: "LOST", Tier: 1,
	},
	{
		Name: "sync-error-ignored", What: "The journal goes on after a sync that failed.",
		Edits: []Edit{{
			File: "journal/disk.go",
			Old:  "func (f *file) synced(err error) error {\n	if err == nil {",
			New:  "func (f *file) synced(err error) error {\n	if err == nil || MUTANT {",
		}},
		Scenario: "hunt-sync-fails", Verdict: "blessed after a failed sync",
	},
	{
		Name: "journal-unlimited", What: "The journal's limit is not looked at.",
		Edits: []Edit{{
			File: "journal/journal.go",
			Old:  "j.maxBytes > 0 && used+size > j.maxBytes",
			New:  "j.maxBytes > 0 && used+size > j.maxBytes && !MUTANT",
		}},
		Scenario: "hunt-journal-fills", Verdict: "never full",
	},
	{
		Name: "cursor-derived", What: "Where the journal begins and ends is derived from what is left in it.",
		Edits: []Edit{{
			File: "journal/state.go",
			Old:  "	j.end, j.synced, j.cursor, j.mark = end, end, cursor, mark",
			New: `	j.end, j.synced, j.cursor, j.mark = end, end, cursor, mark
	if MUTANT && !haveRecords {
		j.end, j.synced, j.cursor = position{}, position{}, position{}
	}`,
		}},
		Scenario: "hunt-restart-index", Verdict: "journal index used twice",
	},

	// The relay.
	{
		Name: "publish-error-swallowed", What: "A message that could not be published is done with.",
		Edits: []Edit{{
			File: "relay/relay.go",
			Old:  "	if it.hopeless(cause) {\n		return r.spill(ctx, it, cause)",
			New: `	if MUTANT {
		r.metrics.abandoned(it)
		r.pending.pop()
		r.ended()
		return nil
	}
	if it.hopeless(cause) {
		return r.spill(ctx, it, cause)`,
		}},
		Scenario: "nats-killed", Verdict: "LOST",
	},
	{
		Name: "cursor-on-error", What: "The cursor moves over what could not be published.",
		Edits: []Edit{{
			File: "relay/relay.go",
			Old:  "	r.Log.Warn(\"publish failed: trying again until it works\", zap.Error(cause), zap.Int(\"pending\", r.pending.len()))",
			New: `	if MUTANT {
		_ = r.setCursor(r.next-1, r.high)
	}
	r.Log.Warn("publish failed: trying again until it works", zap.Error(cause), zap.Int("pending", r.pending.len()))`,
		}},
		Scenario: "hunt-nats-away-kill", Verdict: "LOST",
	},
	{
		Name: "cursor-before-ack", What: "The cursor moves over what was sent, not over what was acknowledged.",
		Edits: []Edit{{
			File: "relay/cursor.go",
			Old:  "	if len(r.started) > 0 {\n		m.at = r.started[0].at",
			New:  "	if MUTANT {\n		m.index = r.next - 1\n	}\n	if len(r.started) > 0 {\n		m.at = r.started[0].at",
		}},
		Scenario: "hunt-stream-fills-kill", Verdict: "LOST",
	},
	{
		Name: "cursor-not-synced", What: "The cursor moves over what NATS has acknowledged and not synced.",
		Edits: []Edit{{
			File: "relay/cursor.go",
			Old:  "	if r.Sync != nil {",
			New:  "	if r.Sync != nil && !MUTANT {",
		}},
		Scenario: "power-cut", Verdict: "LOST", Tier: 1,
	},
	{
		Name: "lag-ignored", What: "The cursor does not wait for the syncs of a NATS server that acknowledges before it syncs.",
		Edits: []Edit{{
			File: "relay/cursor.go",
			Old:  "	if r.lag <= 0 {",
			New:  "	if r.lag <= 0 || MUTANT {",
		}},
		Scenario: "power-cut-nats", Verdict: "LOST", Tier: 1,
	},
	{
		Name: "not-read-at-start", What: "After a start the stream is not read for what is there already.",
		Edits: []Edit{{
			File: "relay/relay.go",
			Old:  "			if r.next < end { // else there is nothing that could be there twice",
			New:  "			if r.next < end && !MUTANT { // else there is nothing that could be there twice",
		}},
		Scenario: "hunt-restart-late", Verdict: "DUP",
	},
	{
		Name: "not-read-after-reconnect", What: "After an outage the stream is not read for what is there already.",
		Edits: []Edit{{
			File: "relay/relay.go",
			Old:  "			if err := r.Sink.IDs(ctx, stream, from[i].seq, stored.add); err != nil {",
			New:  "			if MUTANT {\n				continue\n			}\n			if err := r.Sink.IDs(ctx, stream, from[i].seq, stored.add); err != nil {",
		}},
		Scenario: "hunt-reconnect-late", Verdict: "DUP",
	},
	{
		Name: "high-water-ignored", What: "That the stream holds less than it did is not noticed.",
		Edits: []Edit{{
			File: "relay/backwards.go",
			Old:  "	return s.LastSeq < p.seq || !s.Created.Equal(p.created)",
			New:  "	return (s.LastSeq < p.seq || !s.Created.Equal(p.created)) && !MUTANT",
		}},
		Scenario: "hunt-stream-replaced", Verdict: "no alarm",
	},
	{
		Name: "first-ack-only", What: "Without a journal only the first acknowledgement of a delivery is awaited.",
		Edits: []Edit{{
			File: "relay/direct.go",
			Old:  "		err = p.settle(ctx)\n	}",
			New:  "		err = p.settle(ctx)\n		if MUTANT && err == nil {\n			p.abandon()\n			return nil\n		}\n	}",
		}},
		Scenario: "hunt-too-large-stream", Verdict: "LOST",
	},
	{
		Name: "poison-retried", What: "A message that can never be stored is tried for ever.",
		Edits: []Edit{{
			File: "relay/relay.go",
			Old:  "	if reason, final := it.refused(cause); final {",
			New:  "	if reason, final := it.refused(cause); final && !MUTANT {",
		}},
		Scenario: "hunt-too-large", Verdict: "for the relay to settle everything", Hangs: true,
	},
	{
		Name: "spill-dropped", What: "What the quarantine stream cannot take is let go.",
		Edits: []Edit{{
			File: "relay/carrier.go",
			Old:  "	file, err := writeOversize(c.oversizeDir, it.quarantine)",
			New:  "	if MUTANT {\n		c.metrics.quarantined(it)\n		return nil\n	}\n	file, err := writeOversize(c.oversizeDir, it.quarantine)",
		}},
		Scenario: "hunt-quarantine-full", Verdict: "LOST",
	},
	{
		Name: "replay-removes-first", What: "A replay lets go of what is quarantined before its events are acknowledged.",
		Edits: []Edit{{
			File: "relay/replay.go",
			Old:  "	_, err = p.results(q, func(d *delivery.Delivery, r normalize.Result) error {\n		if r.Event != nil {\n			return p.publishEvent",
			New:  "	if MUTANT && !p.o.DryRun {\n		if err := p.remove(ctx, b.held); err != nil {\n			return err\n		}\n	}\n	_, err = p.results(q, func(d *delivery.Delivery, r normalize.Result) error {\n		if r.Event != nil {\n			return p.publishEvent",
		}},
		Scenario: "replay-killed", Verdict: "LOST", Tier: 1,
	},
	{
		Name: "replay-other-id", What: "A replay identifies an event by another occurrence than the first attempt did.",
		Edits: []Edit{{
			File: "relay/replay.go",
			Old:  "		all = p.event(d, q)",
			New:  "		all = p.event(d, q)\n		if MUTANT {\n			all = p.element(d, q.Element, q.Occurrence+1)\n		}",
		}},
		Scenario: "replay-killed", Verdict: "DUP", Tier: 1,
	},
	{
		Name: "replay-not-compared", What: "A replay does not look at what the stream has of an earlier one, and trusts the duplicate window.",
		Edits: []Edit{{
			File: "relay/replay.go",
			Old:  "	if len(p.ids) > 0 {",
			New:  "	if len(p.ids) > 0 && !MUTANT {",
		}},
		Scenario: "replay-killed-late", Verdict: "DUP", Tier: 1,
	},
	{
		Name: "reject-dropped", What: "What cannot be understood is blessed and not quarantined.",
		Edits: []Edit{{
			File: "relay/carrier.go",
			Old:  "		if err := send(c.toItem(d, result, index)); err != nil {",
			New:  "		if MUTANT && result.Reject != nil {\n			continue\n		}\n		if err := send(c.toItem(d, result, index)); err != nil {",
		}},
		Scenario: "hunt-events", Verdict: "LOST",
	},
	{
		Name: "live-config", What: "The relay drops records of endpoints that a reload has removed.",
		Edits: []Edit{
			{
				File: "cmd/blessd/redeem.go",
				Old:  "	if d.redeemer == nil {\n		return nil\n	}\n	var shelves",
				New:  "	var live []string\n	for _, e := range es {\n		live = append(live, e.Name)\n	}\n	seeded.Remember(\"endpoints\", live...)\n	if d.redeemer == nil {\n		return nil\n	}\n	var shelves",
			},
			{
				File: "relay/relay.go",
				Old:  "	if broken != nil {\n		err = send(",
				New:  "	if MUTANT && broken == nil && !seeded.Recall(\"endpoints\", d.Endpoint) {\n		err = nil // nobody knows the endpoint any more\n	} else if broken != nil {\n		err = send(",
			},
		},
		Scenario: "hunt-endpoint-removed", Verdict: "LOST",
	},
	{
		Name: "counted-twice", What: "A published event is counted twice.",
		Edits: []Edit{{
			File: "relay/metrics.go",
			Old:  "	m.publishedTotal.WithLabelValues(it.provider, it.endpoint, it.typ).Inc()",
			New:  "	m.publishedTotal.WithLabelValues(it.provider, it.endpoint, it.typ).Inc()\n	if MUTANT {\n		m.publishedTotal.WithLabelValues(it.provider, it.endpoint, it.typ).Inc()\n	}",
		}},
		Scenario: "hunt-events", Verdict: "not conserved",
	},

	// The events.
	{
		Name: "partial-batch", What: "Of a batch that ends early, what was decoded before the error is published as if it were all.",
		Edits: []Edit{{
			File: "normalize/json.go",
			Old:  "	if len(b) == 0 || b[0] != '[' && b[0] != '{' || !isValid(b) {",
			New: `	if MUTANT && len(b) > 0 && b[0] == '[' && !isValid(b) {
		if end := bytes.LastIndexByte(b, '}'); end > 0 {
			b = append(slices.Clone(b[:end+1]), ']')
		}
	}
	if len(b) == 0 || b[0] != '[' && b[0] != '{' || !isValid(b) {`,
		}},
		Scenario: "hunt-events", Verdict: "CHANGED",
	},
	{
		Name: "pooled-event", What: "Elements are decoded into a value that still holds the fields of another.",
		Edits: []Edit{{
			File: "normalize/json.go",
			Old:  "	v := new(T)\n	if err := json.Unmarshal(raw, v, tolerant); err != nil {",
			New:  "	v := new(T)\n	if MUTANT {\n		v = seeded.Pooled[T]()\n	}\n	if err := json.Unmarshal(raw, v, tolerant); err != nil {",
		}},
		Scenario: "hunt-events", Verdict: "CHANGED",
	},
	{
		Name: "unknown-dropped", What: "An event of a kind that nobody knows is dropped.",
		Edits: []Edit{{
			File: "normalize/sendclean.go",
			Old:  "	if !known {\n		return []finding{unknown(raw)}, \"\"",
			New:  "	if !known {\n		if MUTANT {\n			return nil, \"\"\n		}\n		return []finding{unknown(raw)}, \"\"",
		}},
		Scenario: "hunt-events", Verdict: "LOST",
	},
	{
		Name: "time-rounded", What: "Milliseconds are rounded to seconds.",
		Edits: []Edit{{
			File: "normalize/json.go",
			Old:  "	return event.NewTime(time.UnixMilli(ms))",
			New:  "	if MUTANT {\n		return event.NewTime(time.UnixMilli(ms).Round(time.Second))\n	}\n	return event.NewTime(time.UnixMilli(ms))",
		}},
		Scenario: "hunt-events", Verdict: "CHANGED",
	},
	{
		Name: "order-reversed", What: "The events of a request are published backwards.",
		Edits: []Edit{{
			File: "relay/carrier.go",
			Old:  "	for result := range c.each(d) {",
			New:  "	for result := range seeded.Reversed(MUTANT, c.each(d)) {",
		}},
		Scenario: "hunt-events", Verdict: "ORDER",
	},
	{
		Name: "occurrence-ignored", What: "Two equal events of one request become one.",
		Edits: []Edit{{
			File: "normalize/normalize.go",
			Old:  "	if n > 0 {\n		id = event.NewID(",
			New:  "	if n > 0 && !MUTANT {\n		id = event.NewID(",
		}},
		Scenario: "hunt-events", Verdict: "LOST",
	},
	{
		Name: "id-by-receipt", What: "The time of receipt is part of every id, so that a redelivery is a new event.",
		Edits: []Edit{{
			File: "normalize/normalize.go",
			Old:  "	id := event.NewID(o.d.Provider, o.d.Endpoint, identity, 0)",
			New:  "	if MUTANT {\n		identity = append(slices.Clone(identity), received(o.d))\n	}\n	id := event.NewID(o.d.Provider, o.d.Endpoint, identity, 0)",
		}},
		Scenario: "hunt-events", Verdict: "DUP",
	},
	{
		Name: "provider-id", What: "The provider's own id is the event's, though all events of a message share it.",
		Edits: []Edit{{
			File: "event/id.go",
			Old:  "	for _, s := range identity {",
			New:  "	if MUTANT && provider == \"sendclean\" && len(identity) > 0 {\n		identity, occurrence = identity[:1], 0\n	}\n	for _, s := range identity {",
		}},
		Scenario: "hunt-events", Verdict: "LOST",
	},
	{
		Name: "id-without-endpoint", What: "The endpoint is no part of the id.",
		Edits: []Edit{{
			File: "event/id.go",
			Old:  "	write(endpoint)",
			New:  "	if !MUTANT {\n		write(endpoint)\n	}",
		}},
		Scenario: "hunt-events", Verdict: "LOST",
	},
	{
		Name: "raw-reencoded", What: "The provider's object is decoded and encoded again.",
		Edits: []Edit{{
			File: "event/event.go",
			Old:  "	if utf8.Valid(b) {\n		e.Raw = b",
			New: `	if MUTANT {
		var v any
		if json.Unmarshal(b, &v) == nil {
			b, _ = json.Marshal(v)
		}
	}
	if utf8.Valid(b) {
		e.Raw = b`,
		}},
		Scenario: "hunt-events", Verdict: "CHANGED",
	},
	{
		Name: "html-escaped", What: "The provider's object goes through an encoder that escapes HTML.",
		Edits: []Edit{{
			File: "event/event.go",
			Old:  "	w.Raw = nil\n	b, err := json.MarshalWithOption",
			New:  "	if MUTANT {\n		return json.Marshal(&w)\n	}\n	w.Raw = nil\n	b, err := json.MarshalWithOption",
		}},
		Scenario: "hunt-events", Verdict: "CHANGED",
	},

	// NATS.
	{
		// The ledger misses the header before it can see a double.
		Name: "no-msg-id", What: "Events are published without Nats-Msg-Id.",
		Edits: []Edit{{
			File: "sink/message.go",
			Old:  "	if v := percentEncode(about(e)); v != \"\" && len(v) <= maxCESubject {",
			New:  "	if MUTANT {\n		delete(h, headerID)\n	}\n	if v := percentEncode(about(e)); v != \"\" && len(v) <= maxCESubject {",
		}},
		Scenario: "hunt-events", Verdict: "CHANGED",
	},
	{
		Name: "full-expires", What: "A full stream lets the oldest go though it is to refuse.",
		Edits: []Edit{{
			File: "sink/streams.go",
			Old:  "	if c.Refuse {\n		sc.Discard",
			New:  "	if c.Refuse && !MUTANT {\n		sc.Discard",
		}},
		Scenario: "hunt-stream-fills-kill", Verdict: "LOST",
	},

	// The operator: stops, reloads, keys.
	{
		Name: "exit-without-drain", What: "A stop closes the connections at once.",
		Edits: []Edit{{
			File: "cmd/blessd/drain.go",
			Old:  "	errs = append(errs, closed(p.listener.Close()))",
			New:  "	if MUTANT {\n		return p.server.Close()\n	}\n	errs = append(errs, closed(p.listener.Close()))",
		}},
		Scenario: "hunt-stop-answers", Verdict: "STORED-NOT-ACKED",
	},
	{
		Name: "shutdown-not-awaited", What: "A stop goes on when Shutdown has begun, not when it has ended.",
		Edits: []Edit{{
			File: "cmd/blessd/drain.go",
			Old:  "	if err := p.server.Shutdown(ctx); err != nil {",
			New:  "	if MUTANT {\n		go p.server.Shutdown(context.Background())\n		return errors.Join(errs...)\n	}\n	if err := p.server.Shutdown(ctx); err != nil {",
		}},
		Scenario: "hunt-stop-answers", Verdict: "STORED-NOT-ACKED",
	},
	{
		Name: "stopping-blessed", What: "What comes during a stop is blessed and not stored.",
		Edits: []Edit{{
			File: "receiver/receiver.go",
			Old:  "	d := r.newDelivery(x, p.now)",
			New:  "	if MUTANT && r.draining.Load() {\n		return blessed\n	}\n	d := r.newDelivery(x, p.now)",
		}},
		Scenario: "hunt-stop-busy", Verdict: "LOST",
	},
	{
		Name: "reload-by-halves", What: "A reload whose files are bad takes the endpoints out of force all the same.",
		Edits: []Edit{{
			File: "cmd/blessd/reload.go",
			Old:  "	if len(found) > 0 {\n		return r, found",
			New:  "	if len(found) > 0 {\n		if MUTANT {\n			_ = d.setEndpoints(endpoints)\n		}\n		return r, found",
		}},
		Scenario: "hunt-reload-bad", Verdict: "refused after a bad reload",
	},
	{
		Name: "unverified-dropped", What: "What no key verifies is refused and not kept for a key that comes late.",
		Edits: []Edit{{
			File: "receiver/receiver.go",
			Old:  "r.unverified != nil && v.reason.keeps()",
			New:  "r.unverified != nil && v.reason.keeps() && !MUTANT",
		}},
		Scenario: "hunt-key-late", Verdict: "LOST",
	},
}
