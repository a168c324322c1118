import assert from 'node:assert/strict'
import { before, test, type TestContext } from 'node:test'
import type { OwnIdentity } from '../../../edge/replication/identity.ts'
import { LinkRefusedError, openLink } from '../../../edge/replication/link.ts'
import { createCa, type PemPair } from '../../../shared/trust/pki.ts'
import { openStatement, statementTypes } from '../../../shared/trust/statement.ts'
import { createEdgeIdentity } from '../../kit/edge-identity.ts'
import { waitFor } from '../../kit/clock.ts'
import { startFeedServer, type FeedLeaseAnswer } from '../../kit/feed-server.ts'
import { createLeaseRequest } from '../../kit/follow-server.ts'

let ca: PemPair
let identity: OwnIdentity

before(async () => {
  const now = new Date()
  ca = await createCa('Edges', now)
  identity = createEdgeIdentity(ca, { edgeId: 'one', now })
})

/** A feed that is being read, at a primary that answers so over it. */
async function start(
  t: TestContext,
  { answers = 'lease', feedAnswerMs = 60_000 }: Partial<Setting> = {},
) {
  const server = await startFeedServer(t, ca)
  server.answerFeedLeases(answers)
  const { internal_url } = JSON.parse((await server.ask('')).body) as {
    readonly internal_url: string
  }
  const link = openLink({
    url: new URL(internal_url),
    identity,
    instance: 'i',
    chooseProxy: () => undefined,
    connectTimeoutMs: 1000,
    feedAnswerMs,
  })
  t.after(() => link.close())
  const feed = await link.feed({ epoch: 1, seq: 0 }, t.signal)
  t.after(() => feed.cancel())
  const kinds: string[] = []
  const reading = (async () => {
    for await (const line of feed.lines()) kinds.push(...Object.keys(line))
  })()
  reading.catch(() => undefined)
  const posts = () => server.requests.filter((path) => path === '/lease').length
  return { server, link, kinds, posts, reading }
}

interface Setting {
  readonly answers: FeedLeaseAnswer
  readonly feedAnswerMs: number
}

test('a lease is asked for over the feed, among its lines, and not by a connection of its own', async (t) => {
  const { server, link, kinds, posts } = await start(t)
  for (const letter of ['A', 'B']) {
    const lease = openStatement(
      statementTypes.lease,
      await link.lease(createLeaseRequest(letter)),
      server.logKey.keyOf,
    )
    assert.equal((lease as { readonly nonce: string }).nonce, letter.repeat(22))
  }
  assert.equal(posts(), 0)
  server.append({ type: 'edge-deleted', edgeId: 'other' })
  await waitFor('the event', () => kinds.includes('head'))
  assert.ok(!kinds.includes('nonce'), 'what follows the log sees none of it')
})

test('a lease that is not answered over the feed in time is asked for by itself', async (t) => {
  const { server, link, posts } = await start(t, { answers: 'silence', feedAnswerMs: 50 })
  assert.ok(await link.lease(createLeaseRequest('A')))
  assert.equal(posts(), 1)
  assert.deepEqual(
    server.leases.map(({ nonce }) => nonce[0]),
    ['A', 'A'],
  )
})

test('a lease that waits when the feed is cut is asked for by itself, at once', async (t) => {
  const { server, link, posts, reading } = await start(t, { answers: 'silence' })
  const answer = link.lease(createLeaseRequest('A'))
  await waitFor('the request', () => server.leases.length === 1)
  server.cut()
  assert.ok(await answer)
  await reading
  assert.ok(await link.lease(createLeaseRequest('B')), 'and so are those after it')
  assert.equal(posts(), 2)
})

for (const [what, refused, isRefusal] of [
  ['a no', { status: 403, message: 'revoked' }, true],
  ['a fault', { status: 503, message: 'not now' }, false],
] as const)
  test(`${what} over the feed is what it would be by itself`, async (t) => {
    const { link, posts } = await start(t, { answers: refused })
    await assert.rejects(link.lease(createLeaseRequest('A')), (error) => {
      assert.equal(error instanceof LinkRefusedError, isRefusal)
      assert.match(String(error), new RegExp(`answers ${refused.status}: ${refused.message}`))
      return true
    })
    assert.equal(posts(), 0)
  })
