import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  createChainReader,
  headerHash,
  type LogHead,
  type SentHeader,
} from '../../../shared/replication/chain.ts'
import { StatementError, type Envelope } from '../../../shared/trust/statement.ts'
import { createLogKey } from '../../kit/log-keys.ts'

// A log as a primary sends it, and what somebody between may do to it.

interface Sent {
  readonly header: SentHeader
  readonly body: string | undefined
}
interface Batch {
  readonly events: readonly Sent[]
  readonly envelope: Envelope
}

const start: LogHead = { epoch: 1, seq: 10, hash: Buffer.alloc(32, 7) }
const { sign, keyOf } = createLogKey()

/** Batches of so many events each; every third body is withheld. */
function logOf(sizes: readonly number[]): Batch[] {
  let head = start
  return sizes.map((size) => {
    const events = Array.from({ length: size }, (): Sent => {
      const body = `body ${head.seq + 1}`
      const bodyHash = createHash('sha256').update(body).digest()
      const next = { epoch: 1, seq: head.seq + 1, stream: 'project:3' as const, bodyHash }
      head = { epoch: 1, seq: next.seq, hash: headerHash({ ...next, previous: head.hash }) }
      const header = { seq: next.seq, stream: next.stream, bodyHash: bodyHash.toString('hex') }
      return { header, body: next.seq % 3 === 0 ? undefined : body }
    })
    return { events, envelope: sign(head) }
  })
}

function readAll(batches: readonly Batch[]): LogHead {
  const reader = createChainReader(start, keyOf)
  for (const { events, envelope } of batches) {
    for (const { header, body } of events) reader.take(header, body)
    reader.close(envelope)
  }
  return reader.head
}

const someBatches = fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 1, maxLength: 4 })

test('a log is believed up to its last signature, with bodies that are withheld', () => {
  fc.assert(
    fc.property(someBatches, (sizes) => {
      const total = sizes.reduce((sum, size) => sum + size, 0)
      assert.equal(readAll(logOf(sizes)).seq, start.seq + total)
    }),
  )
})

test('nothing that is taken counts before it is signed', () => {
  const reader = createChainReader(start, keyOf)
  const [batch] = logOf([2])
  for (const { header, body } of batch?.events ?? []) reader.take(header, body)
  assert.equal(reader.head.seq, start.seq)
})

/** What may be done to event `at` of all, each of which has to be found out by the end of its batch. */
const tamperings: Record<string, (events: Sent[], at: number) => void> = {
  'leaves one out': (events, at) => void events.splice(at, 1),
  'sends one twice': (events, at) => {
    const [one] = events.slice(at, at + 1)
    if (one !== undefined) events.splice(at, 0, one)
  },
  'changes a body': (events, at) => change(events, at, { body: 'another' }),
  'changes a hash': (events, at) => change(events, at, { bodyHash: 'ab'.repeat(32) }),
  'sends no hash': (events, at) => change(events, at, { bodyHash: '' }),
  'moves it to another stream': (events, at) => change(events, at, { stream: 'system' }),
  'names no stream': (events, at) => change(events, at, { stream: 'project:x' }),
  'makes one up': (events, at) =>
    void events.splice(at, 0, {
      header: { seq: events[at]?.header.seq ?? 0, stream: 'system', bodyHash: 'cd'.repeat(32) },
      body: undefined,
    }),
}

function change(
  events: Sent[],
  at: number,
  { body, ...header }: { body?: string; bodyHash?: string; stream?: string },
): void {
  const one = events[at]
  if (one === undefined) return
  events[at] = { header: { ...one.header, ...header }, body: body ?? one.body }
}

for (const [name, tamper] of Object.entries(tamperings)) {
  test(`who ${name} is found out before a byte counts`, () => {
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 6 }), fc.nat(5), (size, place) => {
        const [batch] = logOf([size])
        assert.ok(batch)
        const events = [...batch.events]
        tamper(events, place % size)
        assert.throws(() => readAll([{ events, envelope: batch.envelope }]), StatementError)
      }),
    )
  })
}

test('swapped, truncated, and foreign batches are refused', () => {
  const [one, two] = logOf([2, 3])
  assert.ok(one && two)
  assert.throws(() => readAll([two, one]), StatementError)
  assert.throws(() => readAll([{ ...one, envelope: two.envelope }]), StatementError)
  assert.throws(
    () => readAll([{ events: one.events.slice(0, 1), envelope: one.envelope }]),
    StatementError,
  )
  const stranger = createLogKey('log-key')
  const forged = stranger.sign({ epoch: 1, seq: 12, hash: Buffer.alloc(32) })
  assert.throws(() => readAll([{ ...one, envelope: forged }]), StatementError)
})
