import assert from 'node:assert/strict'
import { before, describe, test, type TestContext } from 'node:test'
import { isLeaseRequest } from '../../../primary/internal/lease-request.ts'
import type { Digest } from '../../../shared/oci/digest.ts'
import type { RepositoryName, Tag } from '../../../shared/oci/reference.ts'
import { readabilityOf, type EventBody } from '../../../shared/replication/events.ts'
import type { SnapshotLine } from '../../../shared/replication/feed.ts'
import { createCa, type PemPair } from '../../../shared/trust/pki.ts'
import { waitFor } from '../../kit/clock.ts'
import { startFeedServer } from '../../kit/feed-server.ts'
import { followServer } from '../../kit/follow-server.ts'
import { signTrustList } from '../../kit/join-server.ts'
import { readProtocol, type RecordedProtocol } from '../../kit/protocol.ts'

// A primary that is one version older or newer, by what such a one was recorded to say.

const digest = (seed: number) => `sha256:${seed.toString(16).padStart(64, '0')}` as Digest
const origin = { upstream: 'primary', repository: 'team/app' as RepositoryName, project: 1 }
const needsNewer = /needs a newer version: .*which it does not know/

let ca: PemPair

before(async () => {
  ca = await createCa('Edges', new Date())
})

/** An edge that follows a primary which speaks so. */
async function start(
  t: TestContext,
  { snapshots, trust, lease, twoWayFeed }: Omit<RecordedProtocol, 'breaking' | 'breakingLine'>,
  moreLines: readonly SnapshotLine[] = [],
) {
  const server = await startFeedServer(t, ca)
  if (!twoWayFeed) server.beOlder()
  server.alterTrust((list) => signTrustList(server.root, [ca.cert], { ...list, ...trust }))
  server.alterLease((signed) => ({ ...signed, ...lease }))
  server.setStreams(['system', 'project:1'])
  server.setState('system', snapshots.system)
  server.setState('project:1', [...(snapshots['project:1'] ?? []), ...moreLines])
  const { log, lines } = await followServer(t, server)
  const said = () => log.stated.tag(origin, 'v1' as Tag)
  return {
    server,
    log,
    lines,
    said,
    answers: (seed: number) =>
      waitFor(`the tag to name ${seed}`, () => {
        const stated = said()
        return stated?.isFresh === true && stated.digest === digest(seed)
      }),
    reported: () => server.leases.at(-1)?.report,
  }
}

for (const version of ['older', 'newer'] as const) {
  test(`an edge works with a primary that is one version ${version}`, async (t) => {
    const protocol = readProtocol(version)
    const edge = await start(t, protocol)
    await edge.answers(1)
    edge.server.alterFeed((line) => [...protocol.lines, line])
    edge.server.appendBodies(...protocol.events)
    await edge.answers(3)
    assert.equal(edge.log.statements.edge('one')?.site, 'hall')
    assert.equal(edge.log.isConnected(), true)
    const asked = edge.server.leases.length
    await waitFor('another lease', () => {
      edge.log.report()
      return edge.server.leases.length > asked
    })
    const posts = edge.server.requests.filter((path) => path === '/lease').length
    assert.equal(posts === edge.server.leases.length, version === 'older', 'each by a request')
    assert.deepEqual(
      edge.lines.filter(({ level }) => level === 'warn'),
      [],
    )
  })
}

test('what an edge does not know and may not pass by stops it there; it says so, and answers what it had', async (t) => {
  const { breaking = [], ...protocol } = readProtocol('newer')
  const edge = await start(t, protocol)
  await edge.answers(1)
  edge.server.appendBodies(...protocol.events)
  await edge.answers(3)
  const { cursor } = edge.log.statements
  const asked = edge.server.requests.filter((path) => path === '/feed').length
  edge.server.appendBodies(...breaking)
  await waitFor('the primary to hear why', () => needsNewer.test(edge.reported()?.lastError ?? ''))
  assert.match(edge.reported()?.lastError ?? '', /a "quarantine"/)
  assert.equal(edge.reported()?.lastErrorIsOver, false)
  assert.equal(edge.log.isConnected(), false)
  assert.deepEqual(edge.log.statements.cursor, cursor, 'nothing of that batch is recorded')
  assert.equal(edge.said()?.digest, digest(3))
  await waitFor('what it had to be no news', () => edge.said()?.isFresh === false)
  assert.equal(edge.log.failure(), undefined, 'clients may go on coming')
  const feeds = edge.server.requests.filter((path) => path === '/feed')
  assert.equal(feeds.length, asked, 'it does not ask again and again')
})

test('a state that an edge does not know is not taken in part', async (t) => {
  const { breakingLine, ...protocol } = readProtocol('newer')
  assert.ok(breakingLine)
  const edge = await start(t, protocol, [breakingLine])
  await waitFor('the primary to hear why', () => needsNewer.test(edge.reported()?.lastError ?? ''))
  assert.match(edge.reported()?.lastError ?? '', /quarantined/)
  assert.equal(edge.said(), undefined)
})

test('a primary hears edges of both versions', () => {
  for (const version of ['older', 'newer'] as const)
    assert.ok(isLeaseRequest(readProtocol(version).leaseRequest), version)
})

describe('an event', () => {
  for (const [readability, what, body] of [
    ['known', 'of this version', { fact: { type: 'tag' } }],
    ['known', 'that may be passed by and is known', { skippable: true, fact: { type: 'tag' } }],
    ['newer', 'that is known by name, in a newer form', { version: 2, fact: { type: 'tag' } }],
    [
      'newer',
      'the same, whatever is signed of it',
      { version: 2, skippable: true, fact: { type: 'edge-deleted' } },
    ],
    ['newer', 'that is not known', { fact: { type: 'advice' } }],
    ['skip', 'that is not, and may be passed by', { skippable: true, fact: { type: 'advice' } }],
    ['newer', 'that says it in other words', { skippable: 'yes', fact: { type: 'advice' } }],
    ['newer', 'that blocks, whatever is signed', { skippable: true, fact: { type: 'block' } }],
    ['newer', 'that revokes', { skippable: true, fact: { type: 'token-revoked' } }],
    ['newer', 'that is called as what every object has', { fact: { type: 'toString' } }],
    ['newer', 'without a name', { skippable: true, fact: {} }],
    ['newer', 'without a fact', { skippable: true }],
  ] as const) {
    test(`${what}: ${readability}`, () => {
      const whole = { version: 1, at: '', salt: '', ...body } as unknown as EventBody
      assert.equal(readabilityOf(whole), readability)
    })
  }
})
