import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { test, type TestContext } from 'node:test'
import { createFeeds } from '../../../primary/events/feed.ts'
import { startTail } from '../../../primary/events/tail.ts'
import { createEvents } from '../../../primary/store/events.ts'
import { createFeedStarts } from '../../../primary/store/feed-starts.ts'
import { appendEvents } from '../../../primary/store/outbox.ts'
import { createLogger } from '../../../shared/observability/log.ts'
import { waitFor } from '../../kit/clock.ts'
import { createRosterEdge } from '../../kit/roster-edge.ts'
import { createTestRoot, signTrustList } from '../../kit/join-server.ts'
import { createLogKey } from '../../kit/log-keys.ts'
import { createTestDatabase } from '../../kit/postgres.ts'

const log = createLogger({ level: 'error', write: () => undefined })
const edge = createRosterEdge()

/** A log whose tail is woken by nobody, and a way to ask for a feed from a place. */
async function createStand(
  t: TestContext,
  given?: { readonly database: Awaited<ReturnType<typeof createTestDatabase>> },
) {
  const database = given?.database ?? (await createTestDatabase(t))
  const { records } = database
  const starts = createFeedStarts(records, database)
  const clones: string[] = []
  let heard = 0
  const events = createEvents(records)
  const { sign } = createLogKey()
  const tail = await startTail({ events, log, pollMs: 3_600_000, keepBytes: 1 })
  const root = createTestRoot()
  const list = { version: 1, issuer: 'test', epoch: 1, root: root.trusted, log: [], ca: [] }
  const trust = () => ({
    root: root.trusted,
    list,
    envelope: signTrustList(root, []),
    rotations: [],
  })
  const feeds = createFeeds({
    tail,
    trust,
    isHeld: () => false,
    log,
    announce: (start) => void starts.announce(start),
    onClone: (edgeId, addresses) => void clones.push(`${edgeId}: ${addresses.join(' ')}`),
    now: () => 0,
  })
  const stopListening = await starts.listen((start) => {
    feeds.startedElsewhere(start)
    heard++
  })
  const server = createServer((request, response) => {
    const [, seq, instance = 'i'] = (request.url ?? '').split('/')
    const from = { epoch: 1, seq: Number(seq) }
    const address = `of ${instance}`
    const output = { stream: response, begin: () => response.writeHead(200) }
    void feeds.open({ edge, instance, address, from }, output).then((refusal) => {
      if (refusal !== undefined) response.writeHead(409).end()
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(async () => {
    await stopListening()
    feeds.close()
    server.closeAllConnections()
    server.close()
    await tail.stop()
  })
  const { port } = server.address() as AddressInfo
  return {
    database,
    clones,
    isFed: () => feeds.isFed(edge.edgeId),
    /** Starts elsewhere that it was told of. */
    heard: () => heard,
    events,
    tail,
    async append(): Promise<void> {
      await records
        .transaction()
        .execute((trx) =>
          appendEvents(trx, [{ type: 'edge-deleted', edgeId: 'other' }], new Date()),
        )
      await events.number(sign)
    },
    ask: (seq: number, instance = '') => fetch(`http://127.0.0.1:${port}/${seq}/${instance}`),
  }
}

test('a place that was read elsewhere first is fed from: nobody takes snapshots again', async (t) => {
  const { append, ask, tail } = await createStand(t)
  await append()
  assert.equal(tail.seq, 0, 'the tail has not looked')
  const answer = await ask(1)
  assert.equal(answer.status, 200)
  await answer.body?.cancel()
  assert.equal((await ask(2)).status, 409, 'there is no such place')
})

test('who is behind a log that was trimmed whole is told so, before an answer begins', async (t) => {
  const { append, ask, events, tail } = await createStand(t)
  for (let event = 0; event < 3; event++) await append()
  await tail.readOn()
  const behind = await ask(1)
  assert.equal(behind.status, 200)
  await behind.body?.cancel()
  await events.trim(new Date(Date.now() + 60_000))
  assert.equal((await ask(1)).status, 409)
})

test('one identity is fed at one primary of several, and two that are it by turns are seen by both', async (t) => {
  const one = await createStand(t)
  const other = await createStand(t, one)
  for (const [at, instance] of [
    [one, 'first'],
    [other, 'second'],
    [one, 'first'],
    [other, 'second'],
  ] as const) {
    const elsewhere = at === one ? other : one
    assert.deepEqual([...one.clones, ...other.clones], [])
    const before = elsewhere.heard()
    assert.equal((await at.ask(0, instance)).status, 200)
    await waitFor('the other primary to hear of it', () => elsewhere.heard() > before)
    assert.deepEqual([at.isFed(), elsewhere.isFed()], [true, false])
  }
  assert.deepEqual(one.clones, [])
  assert.deepEqual(other.clones, [`${edge.edgeId}: of first of second`])
})
