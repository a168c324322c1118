import assert from 'node:assert/strict'
import { before, describe, test, type TestContext } from 'node:test'
import type { PrimaryLog } from '../../../edge/replication/primary-log.ts'
import type { Digest } from '../../../shared/oci/digest.ts'
import type { RepositoryName, Tag } from '../../../shared/oci/reference.ts'
import type { EventFact } from '../../../shared/replication/events.ts'
import type { FeedLine } from '../../../shared/replication/feed.ts'
import { createCa, type PemPair } from '../../../shared/trust/pki.ts'
import { signStatement, statementTypes } from '../../../shared/trust/statement.ts'
import { waitFor } from '../../kit/clock.ts'
import { createRosterEdge } from '../../kit/roster-edge.ts'
import { startFeedServer, type FeedServer } from '../../kit/feed-server.ts'
import { followServer } from '../../kit/follow-server.ts'
import type { LogLine } from '../../kit/http-server.ts'
import { createLogKey } from '../../kit/log-keys.ts'

// Whatever a primary that is not itself may say, or whoever sits between: nothing of it is taken for the log.

const me = createRosterEdge()
const digest = (seed: number) => `sha256:${seed.toString(16).padStart(64, '0')}` as Digest
const tagged = (seed: number, tag = 'v1'): EventFact => ({
  type: 'tag',
  projectId: 1,
  repositoryId: 2,
  tag: tag,
  digest: digest(seed),
})
const origin = { upstream: 'primary', repository: 'team/app' as RepositoryName, project: 1 }

interface Stand {
  readonly server: FeedServer
  readonly log: PrimaryLog
  readonly lines: readonly LogLine[]
  /** Where the tag points as this edge may answer it. */
  answer(): Digest | 'old' | undefined
}

let ca: PemPair

before(async () => {
  // Making one takes longer than a test.
  ca = await createCa('Edges', new Date())
})

/** @param lie what it does from its start */
async function start(t: TestContext, lie?: (server: FeedServer) => void): Promise<Stand> {
  const server = await startFeedServer(t, ca)
  lie?.(server)
  server.setStreams(['system', 'project:1'])
  server.setState('system', [{ edge: me }])
  server.setState('project:1', [
    { project: 'team', public: true },
    { repository: 2, name: 'team/app' },
    { repository: 2, tag: 'v1', digest: digest(1) },
  ])
  server.append({ type: 'project', projectId: 1, name: 'team', public: true })
  const { log: primaryLog, lines } = await followServer(t, server)
  return {
    server,
    log: primaryLog,
    lines,
    answer() {
      const said = primaryLog.stated.tag(origin, 'v1' as Tag)
      return said?.isFresh === false ? 'old' : said?.digest
    },
  }
}

/** Waits until the edge says that it does not take what it was sent, and tells why. */
const refusalIn = (
  { lines }: Stand,
  { pattern, from = 0 }: { readonly pattern: RegExp; readonly from?: number },
) =>
  waitFor(`a refusal like ${pattern.source}`, () =>
    lines.slice(from).some(({ reason }) => pattern.test(String(reason))),
  )

const isEvent = (line: FeedLine): line is Extract<FeedLine, { seq: number }> => 'seq' in line

/** What may be done to the line of an event on its way, and how an edge calls that. */
const lies: readonly {
  readonly what: string
  readonly alter: (line: FeedLine) => readonly FeedLine[]
  readonly refusal: RegExp
}[] = [
  {
    what: 'left out',
    alter: (line) => (isEvent(line) ? [] : [line]),
    refusal: /what is signed is not the log up to/,
  },
  {
    what: 'sent twice',
    alter: (line) => (isEvent(line) ? [line, line] : [line]),
    refusal: /came where/,
  },
  {
    what: 'given another body',
    alter: (line) => (isEvent(line) ? [{ ...line, body: '{"fact":{}}' }] : [line]),
    refusal: /not the one that its header names/,
  },
  {
    what: 'sent without its body',
    alter: (line) =>
      isEvent(line) ? [{ seq: line.seq, stream: line.stream, bodyHash: line.bodyHash }] : [line],
    refusal: /was left out/,
  },
  {
    what: 'put into another stream',
    alter: (line) => (isEvent(line) ? [{ ...line, stream: 'project:9' }] : [line]),
    refusal: /what is signed is not the log up to/,
  },
  {
    what: 'signed by a key that the root never named',
    alter: (line) => {
      if (!('head' in line)) return [line]
      const { payload } = line.head
      const said = JSON.parse(Buffer.from(payload, 'base64').toString()) as object
      return [{ head: signStatement(statementTypes.head, said, createLogKey().key) }]
    },
    refusal: /no key that is trusted here signed/,
  },
]

describe('an event that was', () => {
  test('anything but itself is not taken, and the truth is when it comes', async (t) => {
    const stand = await start(t)
    const { server } = stand
    await waitFor('the first answer', () => stand.answer() === digest(1))
    for (const [index, { what, alter, refusal }] of lies.entries()) {
      await t.test(what, async () => {
        const before = stand.answer()
        const from = stand.lines.length
        server.alterFeed(alter)
        server.append(tagged(10 + index))
        await refusalIn(stand, { pattern: refusal, from })
        assert.equal(stand.answer(), before)
        server.alterFeed(undefined)
        server.cut()
        await waitFor('the truth', () => stand.answer() === digest(10 + index))
      })
    }
  })
})

describe('a primary that is not itself', () => {
  test('cannot have a snapshot taken of which one row is altered', async (t) => {
    const stand = await start(t, (server) =>
      server.alterSnapshot((rows) => rows.map((row) => row.replace(digest(1), digest(66)))),
    )
    await refusalIn(stand, { pattern: /not what was signed/ })
    assert.equal(stand.answer(), undefined)
    stand.server.alterSnapshot(undefined)
    await waitFor('the truth', () => stand.answer() === digest(1))
  })

  test('gives no lease by an answer to another request', async (t) => {
    const stand = await start(t, (server) =>
      server.alterLease((lease) => ({ ...lease, nonce: 'AAAAAAAAAAAAAAAAAAAAAA' })),
    )
    await refusalIn(stand, { pattern: /answers another request/ })
    stand.server.alterLease(undefined)
    await waitFor('the truth', () => stand.answer() === digest(1))
  })

  test('that keeps events back is not believed to have sent all', async (t) => {
    // Its leases name a head that its feed does not bring.
    const stand = await start(t, (server) =>
      server.alterLease((lease) => ({
        ...lease,
        head: { ...lease.head, seq: lease.head.seq + 1 },
      })),
    )
    await waitFor('its state', () => stand.answer() !== undefined)
    assert.equal(stand.answer(), 'old')
    stand.server.append(tagged(5))
    await waitFor('what was kept back', () => stand.answer() === digest(5))
  })

  test('cannot begin an epoch by a key of the log', async (t) => {
    const stand = await start(t, (server) => server.setEpoch(2))
    const { server } = stand
    await refusalIn(stand, { pattern: /the lease is of epoch 2, which the root did not announce/ })
    server.alterLease((lease) => ({ ...lease, head: { ...lease.head, epoch: 1 } }))
    await refusalIn(stand, {
      pattern: /the snapshot of system is of epoch 2, which the root did not announce/,
    })
    assert.equal(stand.answer(), undefined)
    server.setEpoch(1)
    server.alterLease(undefined)
    await waitFor('the truth', () => stand.answer() === digest(1))
  })

  test('cannot name the keys of the log by a key of the log', async (t) => {
    const stand = await start(t, (server) =>
      server.alterTrust((list) =>
        signStatement(
          statementTypes.trust,
          { ...list, epoch: 2 },
          { kid: server.root.trusted.id, privateKey: server.logKey.key.privateKey },
        ),
      ),
    )
    await refusalIn(stand, { pattern: /no key that is trusted here signed/ })
    stand.server.alterTrust(undefined)
    await waitFor('the truth', () => stand.answer() === digest(1))
  })
})
