#!/usr/bin/env node
// Keeps a suppression list: prints one line for every address that must not be
// written to again, because it bounced for good, complained or unsubscribed. It is
// written to be copied, and does what ../go does.
//
//   npm ci
//   node suppressions.js                                # the embedded NATS server of blessd on this machine
//   NATS_URL=nats://n1:4222 NATS_USER=suppressions NATS_PASSWORD=... node suppressions.js --bind
//
// What makes it safe to copy: the consumer is durable, so that the server remembers
// how far it came; an event is acknowledged after it is handled, and comes again
// when that fails; and the ids of what was handled are remembered, since an event
// may come twice. In memory is enough here, because suppressing an address twice
// does no harm. Where twice does harm, write the id in the transaction of the
// handling, under a unique key.
import { parseArgs } from "node:util";
import { connect } from "@nats-io/transport-node";
import { AckPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";

const { values: flags } = parseArgs({
  options: {
    stream: { type: "string", default: "MAIL_EVENTS" },
    prefix: { type: "string", default: "mail" },
    durable: { type: "string", default: "suppressions" },
    bind: { type: "boolean", default: false }, // use the consumer that is there, and make none
    max: { type: "string", default: "0" }, // end after so many events
    tests: { type: "boolean", default: false }, // act on test events too
  },
});

const nc = await connect({
  servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222",
  user: process.env.NATS_USER,
  pass: process.env.NATS_PASSWORD,
  name: "suppressions",
  maxReconnectAttempts: -1,
});

if (!flags.bind) {
  const manager = await jetstreamManager(nc);
  // A subject is mail.events.<provider>.<endpoint>.<family>.<verb>. Asking for what
  // is needed and no more is the server's work, not ours.
  const config = {
    description: "addresses that must not be written to again",
    filter_subjects: [
      `${flags.prefix}.events.*.*.email.bounced`,
      `${flags.prefix}.events.*.*.email.complained`,
      `${flags.prefix}.events.*.*.*.unsubscribed`, // email.unsubscribed and contact.unsubscribed
    ],
    ack_policy: AckPolicy.Explicit,
    ack_wait: 30e9, // nanoseconds; unacknowledged for so long: delivered again
    max_ack_pending: 256,
  };
  await manager.consumers.add(flags.stream, { durable_name: flags.durable, ...config });
}
const consumer = await jetstream(nc).consumers.get(flags.stream, flags.durable);

const seen = new Set();
const max = Number(flags.max);
const messages = await consumer.consume({ max_messages: 100 });
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => messages.stop());
let handled = 0;
for await (const m of messages) {
  let event;
  try {
    event = m.json();
    if (typeof event?.id !== "string" || typeof event.type !== "string") throw new Error("no id or type");
  } catch {
    m.term("not a canonical event"); // it will never be readable, so it is not to come again
    continue;
  }
  if (!seen.has(event.id)) {
    try {
      handle(event);
    } catch (err) {
      console.error(`event ${event.id} comes again: ${err.message}`);
      m.nak(100 * 2 ** Math.min(m.info.deliveryCount - 1, 9)); // up to about a minute
      continue;
    }
    remember(event.id);
    handled++;
  }
  m.ack();
  if (max > 0 && handled >= max) break;
}
await nc.drain(); // sends what is still to be sent, the last acknowledgements above all

// handle writes a line when the event means that someone must not be written to
// again.
function handle(event) {
  if (event.test && !flags.tests) return;
  const why = reason(event);
  if (!why) return;
  // Addresses and texts come from strangers: quoted, they cannot end the line.
  console.log(`suppress ${who(event)}: ${why} (${event.provider} at ${event.time}, event ${event.id})`);
}

function reason(event) {
  switch (event.type) {
    case "email.bounced":
      // A soft bounce may pass, and an unknown one may be soft.
      return event.bounce?.class === "hard" ? `hard bounce ${JSON.stringify(event.bounce.description ?? "")}` : "";
    case "email.complained":
      return "complaint";
    case "email.unsubscribed":
    case "contact.unsubscribed":
      return "unsubscribed";
  }
  return ""; // a type that a newer blessd sends
}

// who names the recipient by the best that the provider sends. SendClean and Sarv
// send no address: the sender finds it by the X-Unique-Id header it had set.
function who(event) {
  if (event.recipient) return `address ${JSON.stringify(event.recipient)}`;
  if (event.contact?.email) return `address ${JSON.stringify(event.contact.email)}`;
  if (event.contact) return `contact ${JSON.stringify(event.contact.id ?? "")}`;
  if (event.message?.correlation_id) return `recipient of the message with correlation id ${JSON.stringify(event.message.correlation_id)}`;
  if (event.message) return `recipient of message ${JSON.stringify(event.message.id ?? "")}`;
  return "nobody known";
}

// remember forgets the oldest of many ids.
function remember(id) {
  seen.add(id);
  if (seen.size > 100_000) seen.delete(seen.values().next().value);
}
