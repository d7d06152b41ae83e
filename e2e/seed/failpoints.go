package seed

// Failpoints are in the order in which a delivery meets them.
var Failpoints = []Failpoint{
	{
		Name: "receiver.after-read", What: "The body is there; nobody has looked at it.",
		File: "receiver/receiver.go", Before: "	p := &post{header: x.q.Header, body: x.body, token: x.token, now: r.now()}",
	},
	{
		Name: "receiver.after-verify", What: "The delivery is proven and nowhere else than in memory.",
		File: "receiver/receiver.go", Before: "	if v.report != \"\" {",
	},
	{
		Name: "journal.before-append", What: "The record is encoded and not in the journal's queue.",
		File: "journal/journal.go", Before: "	g, reason, err := j.enqueue(ctx, value)",
	},
	{
		Name: "journal.before-write", What: "The group is complete, and none of it is written.",
		File: "journal/commit.go", Before: "	// Not g.batch.Commit's nil alone makes it durable: after a fatal error pebble",
	},
	{
		Name: "journal.before-sync", What: "A log is written, and the kernel has not been asked to make it durable.",
		File: "journal/disk.go", After: "func (f *file) SyncData() error {",
	},
	{
		Name: "journal.sync", What: "A sync of the journal fails, when the action is error.",
		File: "journal/disk.go", Before: "return f.synced(f.File.SyncData())",
		New: "if err := FAILING; err != nil {\nreturn f.synced(err)\n}\nreturn f.synced(f.File.SyncData())",
	},
	{
		Name: "journal.after-sync", What: "The group is durable; nobody knows.",
		File: "journal/commit.go", Before: "	return g.batch.Close()",
	},
	{
		Name: "journal.rotate", What: "A new log or table is about to be created.",
		File: "journal/disk.go", Before: "	f, err := d.FS.Create(name, c)",
	},
	{
		Name: "receiver.before-answer", What: "The delivery is stored, and the answer is not begun.",
		File: "receiver/outcome.go", Before: "	x.w.WriteHeader(status)",
	},
	{
		Name: "receiver.mid-answer", What: "The headers with the 200 are on the wire, the blessing is not.",
		File: "receiver/outcome.go", Before: "	if x.q.Method != http.MethodHead {",
		New: `	if seeded.Armed("receiver.mid-answer") {
		_ = http.NewResponseController(x.w).Flush()
	}
	POINT
	if x.q.Method != http.MethodHead {`,
	},
	{
		Name: "relay.before-publish", What: "The relay has a message, and NATS has not.",
		File: "relay/carrier.go", Before: "	future, err := c.sink.Publish(it.msg)",
	},
	{
		Name: "relay.after-publish", What: "The message is on its way, or stored, and not acknowledged.",
		File: "relay/carrier.go", Before: "	it.future = future",
	},
	{
		Name: "relay.after-ack", What: "NATS has acknowledged the message; the relay has not noted it.",
		File: "relay/relay.go", Before: "	r.count(it, ack)",
	},
	{
		Name: "relay.before-cursor", What: "The cursor is about to move, and what it moves over is not synced.",
		File: "relay/cursor.go", After: "func (r *Relay) writeCursor(ctx context.Context, m mark) error {",
	},
	{
		Name: "relay.in-cursor", What: "The streams are synced, the cursor is where it was.",
		File: "relay/cursor.go", Before: "	return r.setCursor(m.index, m.at)",
	},
	{
		Name: "journal.in-cursor", What: "The new cursor is queued with the deletion of what it has passed.",
		File: "journal/journal.go", Before: "	_, err = j.await(context.Background(), g)",
	},
	{
		Name: "relay.after-cursor", What: "The cursor has moved.",
		File: "relay/cursor.go", Before: "	r.metrics.cursor.Set(float64(time.Now().UnixNano()) / 1e9)",
	},
	{
		Name: "quarantine.before-publish", What: "A body was found to be unreadable and is in no stream.",
		File: "relay/carrier.go", Before: "	msg, err := c.sink.QuarantineMessage(*q)",
	},
	{
		Name: "oversize.before-rename", What: "The file for what no stream takes is written and has no name.",
		File: "relay/oversize.go", Before: "		err = os.Rename(f.Name(), file)",
	},
	{
		Name: "oversize.before-meta", What: "The bytes that no stream takes are in their file, what they are is not.",
		File: "relay/oversize.go", Before: `	if err := writeOnce(file+"."+q.ID+".json", append(meta, '\n')); err != nil {`,
	},
	{
		Name: "replay.before-publish", What: "What was quarantined is understood now, and NATS has not got it as an event.",
		File: "relay/replay.go", Before: "	future, err := p.sink.Publish(m)",
	},
	{
		Name: "replay.after-ack", What: "NATS has acknowledged what is replayed; all of it is still in quarantine.",
		File: "relay/replay.go", Before: "	if err := p.safe(ctx); err != nil {",
	},
	{
		Name: "replay.before-remove", What: "What was replayed is safe, and some of it has left the quarantine.",
		File: "relay/replay.go", Before: "		if err := p.remove(ctx, b.held); err != nil {",
	},
	{
		Name: "unverified.before-rename", What: "A refused delivery is written and has no name.",
		File: "unverified/write.go", Before: "		err = os.Rename(f.Name(), filepath.Join(dir, name))",
	},
	{
		Name: "unverified.after-redeem", What: "A redeemed delivery is in the journal and still among the refused.",
		File: "unverified/redeem.go", Before: "	sum.Redeemed++",
	},
	{
		Name: "keys.before-rename", What: "A generated key or token is written and has no name.",
		File: "cmd/blessd/firstrun.go", Before: "	if err := os.Rename(f.Name(), file); err != nil {",
	},
}

// Knobs are the intervals that matter.
var Knobs = []Knob{
	{
		Name: "cursor-interval", What: "How often the cursor is written.",
		File: "relay/relay.go", Old: "o.CursorInterval = 10 * time.Second", New: "o.CursorInterval = KNOB(10*time.Second)",
	},
	{
		Name: "foreign-sync-lag", What: "How long the cursor stays behind a server that is not ours and syncs late.",
		File: "cmd/blessd/daemon.go", Old: "o.Lag = 2 * foreignSyncInterval", New: "o.Lag = KNOB(2*foreignSyncInterval)",
	},
}
