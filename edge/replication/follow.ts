import { randomBytes, randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { parseJson } from '../../shared/auth/json.ts'
import type { Logger } from '../../shared/observability/log.ts'
import { createChainReader, type LogHead } from '../../shared/replication/chain.ts'
import {
  isEntitled,
  readabilityOf,
  streamOfText,
  type EventBody,
  type EventStream,
} from '../../shared/replication/events.ts'
import type { FeedLine } from '../../shared/replication/feed.ts'
import type { EdgeReport, Lease } from '../../shared/replication/lease.ts'
import {
  openStatement,
  StatementError,
  statementTypes,
  type Envelope,
} from '../../shared/trust/statement.ts'
import type { AskPrimary } from '../access/token-relay.ts'
import type { Freshness } from './freshness.ts'
import type { Identity, OwnIdentity } from './identity.ts'
import { LinkRefusedError, openLink, type LinkOptions, type PrimaryLink } from './link.ts'
import { NewerVersionError } from './newer.ts'
import type { KnownEvent } from '../cache/statement-events.ts'
import type { Statements } from '../cache/statements.ts'
import { createStreams, type Streams } from './streams.ts'
import type { Trouble } from './trouble.ts'

/** What an edge says of itself with each request for a lease. */
export interface EdgeProgress {
  readonly heldSeq: number
  readonly waitingBytes: number
  /** Where other edges of its site reach it. */
  readonly peerUrl?: string
  readonly report: EdgeReport
}

export interface FollowDeps {
  readonly edgeId: string
  readonly identity: Identity
  readonly statements: Statements
  readonly freshness: Freshness
  readonly ask: AskPrimary
  readonly dial: Pick<LinkOptions, 'chooseProxy' | 'connectTimeoutMs'>
  readonly progress: () => EdgeProgress
  /** Told by what this edge proves who it is, at each connection. */
  readonly onIdentity: (identity: OwnIdentity) => void
  /** Told of each connection, which may be used for other requests until the signal says that it is over. */
  readonly onLink: (link: PrimaryLink, signal: AbortSignal) => void
  /** Told of what was recorded, in order, once it is. */
  readonly onApplied: (events: readonly KnownEvent[]) => void
  /** Told when a stream's whole state came, or went. */
  readonly onStreams: () => void
  /** The primary's events come again, after a time in which they did not. */
  readonly onReturned: () => void
  readonly trouble: Pick<Trouble, 'note' | 'over'>
  readonly log: Logger
}

export interface Following {
  /** Whether the log is being read now. */
  isConnected(): boolean
  /** Why the primary gives this edge nothing, where it says so. */
  refusal(): string | undefined
  /** Has the primary told how far this edge is, soon. */
  report(): void
  close(): Promise<void>
}

const longestPauseMs = 30_000
/** A lease is renewed this often in its time. */
const renewals = 3
const retryMs = 2000
/** Where this version can go no further it tries again so much later. */
const haltMs = 600_000
/** Progress is told this much later, with what else is then. */
const reportMs = 250

/** Follows the primary's log for as long as it runs, however often it breaks. */
export function startFollowing(deps: FollowDeps): Following {
  const { log, freshness, trouble } = deps
  const stopping = new AbortController()
  const instance = randomUUID()
  const reporter = createReporter()
  let connected = false
  let lostBefore: string | undefined
  let refusal: string | undefined

  const lost = (err: unknown): void => {
    const reason = err instanceof Error ? err.message : String(err)
    connected = false
    trouble.note('log', err)
    // Once for each kind of trouble, not for each attempt.
    if (reason !== lostBefore)
      log.warn({ reason }, 'the events of the primary do not come: tags are asked for one by one')
    lostBefore = reason
  }
  const run = async (): Promise<void> => {
    for (let failures = 0; !stopping.signal.aborted; failures++) {
      try {
        await followOnce(
          { ...deps, instance, reporter, signal: stopping.signal },
          {
            onConnected() {
              connected = true
              failures = 0
              refusal = undefined
              trouble.over('log')
              if (lostBefore === undefined) return
              log.info('the events of the primary come again')
              lostBefore = undefined
              deps.onReturned()
            },
            onHalted(error) {
              // There is more than is recorded, whatever the last lease allowed.
              freshness.end()
              lost(error)
            },
          },
        )
      } catch (err) {
        if (stopping.signal.aborted) return
        if (err instanceof ReconnectError) continue
        if (err instanceof LinkRefusedError && err.status === 403) {
          freshness.end()
          refusal = err.message
        }
        lost(err)
      }
      await pause(failures, stopping.signal)
    }
  }
  const running = run()
  return {
    isConnected: () => connected,
    refusal: () => refusal,
    report: () => reporter.report(),
    async close() {
      stopping.abort()
      await running
    },
  }
}

interface Reporter {
  report(): void
  to(hurry: (() => void) | undefined): void
}

/** Has what is to be told at once told together with what is so a moment later. */
function createReporter(): Reporter {
  let hurry: (() => void) | undefined
  let timer: NodeJS.Timeout | undefined
  return {
    report() {
      timer ??= setTimeout(() => {
        timer = undefined
        hurry?.()
      }, reportMs).unref()
    },
    to(told) {
      hurry = told
    },
  }
}

/** The first attempt is at once, the later ones jitter. */
async function pause(failures: number, signal: AbortSignal): Promise<void> {
  if (failures === 0) return
  const most = Math.min(longestPauseMs, 250 * 2 ** Math.min(failures, 10))
  await delay(Math.random() * most, undefined, { signal }).catch(ignore)
}

interface Session extends FollowDeps {
  readonly instance: string
  readonly reporter: Reporter
  readonly signal: AbortSignal
}

/** The connection ends for the next one to begin, by other keys. */
class ReconnectError extends Error {
  override readonly name = 'ReconnectError'
}

/** One connection, from its beginning to what ends it, which is thrown. */
async function followOnce(
  deps: Session,
  {
    onConnected,
    onHalted,
  }: {
    readonly onConnected: () => void
    /** Told what the log says that this version does not know. */
    readonly onHalted: (error: NewerVersionError) => void
  },
): Promise<void> {
  const { url, envelope, rotations } = await askForTrust(deps.ask)
  // Before a certificate is asked for, which an older root would not vouch for.
  await deps.identity.take(envelope, rotations)
  const identity = await deps.identity.current()
  const controller = new AbortController()
  const signal = AbortSignal.any([deps.signal, controller.signal])
  deps.onIdentity(identity)
  const link = openLink({ url, identity, instance: deps.instance, ...deps.dial })
  try {
    const keyOf = deps.identity.logKey
    const streams = createStreams({
      statements: deps.statements,
      link,
      keyOf,
      epoch: () => deps.identity.epoch(),
      signal,
      onChanged: deps.onStreams,
      onFailed: (stream, err) => {
        deps.log.warn({ stream, err }, 'the state of a stream could not be fetched')
        controller.abort(err)
      },
    })
    const lease = createLeaseRenewal({ ...deps, link, keyOf, streams, signal })
    await beginIfNew(deps, { streams, lease })
    deps.onLink(link, signal)
    // The first lease was asked for with nothing recorded.
    deps.reporter.report()
    deps.reporter.to(lease.hurry)
    const leases = lease.keep()
    leases.catch((error: unknown) => controller.abort(error))
    await readFeed(
      {
        ...deps,
        link,
        streams,
        signal,
        keyOf,
        onOwnChange: lease.hurry,
        mayRead: lease.lists,
      },
      {
        onConnected,
        takeTrust: (list) =>
          takeInSession(deps, list, {
            identity,
            reconnect: () => controller.abort(new ReconnectError('the keys are others now')),
            signal,
          }),
      },
    ).catch((error: unknown) => {
      if (!(error instanceof NewerVersionError) || signal.aborted) throw error
      onHalted(error)
      deps.reporter.report()
      // Nothing more is recorded, and by its leases, which make nothing fresh, the primary hears why.
      // Its log may be kept no longer, and a snapshot of today be understood.
      const again = setTimeout(() => controller.abort(error), haltMs).unref()
      return leases.finally(() => clearTimeout(again))
    })
  } catch (error) {
    throw signal.aborted && signal.reason instanceof Error ? signal.reason : error
  } finally {
    deps.reporter.to(undefined)
    controller.abort(new Error('the connection is over'))
    await link.close()
  }
}

/** So much later than another edge one begins a new connection, by chance: all hear of new keys at once. */
const spreadMsPerEdge = 10
const longestSpreadMs = 60_000

/** A list that came with the feed: another epoch is another log, and another CA is for the next connection. */
async function takeInSession(
  { identity, statements, onIdentity }: Session,
  envelope: Envelope,
  session: {
    readonly identity: OwnIdentity
    readonly reconnect: () => void
    readonly signal: AbortSignal
  },
): Promise<void> {
  const list = await identity.take(envelope)
  if (list === undefined) return
  if (list.epoch !== statements.cursor?.epoch)
    throw new ReconnectError('the log goes on in a new epoch')
  const { ca } = session.identity
  if (list.ca.join('') === ca.join('')) return
  // Peers may have been given theirs by the new one already.
  onIdentity({ ...session.identity, ca: list.ca })
  const edges = await statements.edges()
  const spreadMs = Math.min(longestSpreadMs, edges.length * spreadMsPerEdge)
  delay(Math.random() * spreadMs, undefined, { signal: session.signal }).then(
    session.reconnect,
    ignore,
  )
}

/** Where the primary's internal listener is, and whom its root trusts now: its root signed the latter. */
async function askForTrust(
  ask: AskPrimary,
): Promise<{ url: URL; envelope: Envelope; rotations: readonly Envelope[] }> {
  const { status, body } = await ask('/service/trust', {})
  const answer = status === 200 ? parseJson(body) : undefined
  const {
    list,
    rotations,
    internal_url: internal,
  } = (answer ?? {}) as {
    readonly list?: Envelope
    readonly rotations?: unknown
    readonly internal_url?: unknown
  }
  const url = typeof internal === 'string' ? URL.parse(internal) : null
  if (list === undefined || url === null || url.protocol !== 'https:')
    throw new Error('the primary does not say where its events are')
  return {
    url,
    envelope: list,
    rotations: Array.isArray(rotations) ? (rotations as readonly Envelope[]) : [],
  }
}

/** Takes snapshots where nothing is recorded yet, or what is recorded is of a log that is no more. */
async function beginIfNew(
  { statements, identity, freshness }: Session,
  { streams, lease }: { readonly streams: Streams; readonly lease: LeaseRenewal },
): Promise<void> {
  const { cursor } = statements
  if (cursor !== undefined && cursor.epoch !== identity.epoch()) {
    // Its numbers mean nothing any more.
    freshness.end()
    await statements.restart()
  }
  const listed = await lease.renew()
  if (statements.cursor === undefined) await streams.begin('system')
  await streams.settle(listed)
}

interface FeedSession extends Session {
  readonly link: PrimaryLink
  readonly streams: Streams
  readonly keyOf: Parameters<typeof createChainReader>[1]
  readonly onOwnChange: () => void
  /** Whether the last lease lists a stream. */
  readonly mayRead: (stream: EventStream) => boolean
}

async function readFeed(
  deps: FeedSession,
  {
    onConnected,
    takeTrust,
  }: {
    readonly onConnected: () => void
    readonly takeTrust: (list: Envelope) => Promise<void>
  },
): Promise<void> {
  const { statements, streams, freshness } = deps
  const from = statements.cursor
  if (from === undefined) throw new Error('there is no place to go on from')
  const feed = await openFeed(deps, from)
  const chain = createChainReader(from, deps.keyOf)
  let events: KnownEvent[] = []
  let newer: NewerVersionError | undefined
  freshness.reached(from)
  onConnected()
  try {
    for await (const line of feed.lines()) {
      if ('trust' in line) await takeTrust(line.trust)
      else if ('seq' in line) {
        chain.take(line, line.body)
        const event = eventOf(line)
        if (event === undefined) refuseWithheld(line, deps)
        else if (event instanceof NewerVersionError) newer ??= event
        else if (event !== 'skip') events.push(event)
      } else if ('head' in line) {
        chain.close(line.head)
        // Believed now: it is no liar's.
        if (newer !== undefined) throw newer
        const batch = events
        events = []
        await streams.apply(batch, { ...chain.head, proof: line.head })
        freshness.reached(chain.head)
        noteCurrent(deps)
        deps.onApplied(batch)
        if (batch.some(({ fact }) => isOwn(fact, deps.edgeId))) deps.onOwnChange()
      }
    }
    throw new Error('the primary ended the feed')
  } finally {
    feed.cancel()
  }
}

/** A log that does not reach back to where this edge is, or is another one: it begins again by snapshots. */
async function openFeed({ link, statements, signal }: FeedSession, from: LogHead) {
  try {
    return await link.feed(from, signal)
  } catch (error) {
    if (!(error instanceof LinkRefusedError) || error.status !== 409) throw error
    await statements.restart()
    throw new Error('the log does not reach back to where this edge was: it takes snapshots', {
      cause: error,
    })
  }
}

/**
 * A body may be left out of streams that this edge may not read, or does not read any more.
 * @throws StatementError for any other: who leaves one out hides a block, or a tag that moved
 */
function refuseWithheld(
  { seq, stream: text }: { readonly seq: number; readonly stream: string },
  { statements, edgeId, mayRead }: FeedSession,
): void {
  const stream = streamOfText(text)
  if (stream === undefined || !statements.knows(stream) || !mayRead(stream)) return
  if (isEntitled(statements.edge(edgeId)?.scope ?? [], stream))
    throw new StatementError(`the body of event ${seq} was left out`)
}

/** @returns undefined for one whose body was left out; an error for what may not be passed by */
function eventOf(
  line: Extract<FeedLine, { readonly seq: number }>,
): KnownEvent | NewerVersionError | 'skip' | undefined {
  const { seq, stream: text, bodyHash, body } = line
  const stream = streamOfText(text)
  if (body === undefined || stream === undefined) return undefined
  const read = JSON.parse(body) as EventBody
  const { fact, at } = read
  switch (readabilityOf(read)) {
    case 'newer':
      return new NewerVersionError(`event ${seq} of the log is a ${JSON.stringify(fact.type)}`)
    case 'skip':
      return 'skip'
    case 'known':
  }
  return { seq, stream, bodyHash, at: Date.parse(at), fact }
}

/** Remembers up to when all is recorded. */
function noteCurrent({ freshness, statements }: Pick<Session, 'freshness' | 'statements'>): void {
  const at = freshness.coveredTo()
  if (at !== undefined) statements.markCurrent(at)
}

function isOwn(fact: EventBody['fact'], edgeId: string): boolean {
  return fact.type === 'edge' && fact.edgeId === edgeId
}

interface LeaseRenewal {
  /** @returns the streams that this edge may read */
  renew(): Promise<readonly EventStream[]>
  /** Renews it for as long as the connection lasts; rejects when that is over. */
  keep(): Promise<never>
  /** What this edge may do has changed: it asks again at once. */
  hurry(): void
  /** Whether the last lease lists a stream. */
  lists(stream: EventStream): boolean
}

interface LeaseSession extends Session {
  readonly link: PrimaryLink
  readonly keyOf: Parameters<typeof createChainReader>[1]
  readonly streams: Streams
}

function createLeaseRenewal(deps: LeaseSession): LeaseRenewal {
  const { link, freshness, statements, keyOf, signal, edgeId } = deps
  let hurried: (() => void) | undefined
  let leaseMs = retryMs * renewals
  let listed: ReadonlySet<EventStream> = new Set()

  const renew = async (): Promise<readonly EventStream[]> => {
    const nonce = randomBytes(16).toString('base64url')
    const { epoch, seq, proof } = statements.cursor ?? { epoch: 1, seq: 0, proof: undefined }
    const asked = freshness.ask()
    const answer = await link.lease({
      nonce,
      applied: { epoch, seq },
      ...(proof !== undefined && { proof }),
      ...deps.progress(),
    })
    const lease = openStatement(statementTypes.lease, answer, keyOf) as Lease
    if (lease.nonce !== nonce || lease.edgeId !== edgeId)
      throw new StatementError('the lease answers another request')
    if (lease.head.epoch !== deps.identity.epoch())
      throw new StatementError(
        `the lease is of epoch ${lease.head.epoch}, which the root did not announce`,
      )
    freshness.grant(asked, lease.head, lease.leaseMs)
    noteCurrent(deps)
    leaseMs = lease.leaseMs
    const streams = lease.streams.map(streamOfText).filter((stream) => stream !== undefined)
    listed = new Set(streams)
    return streams
  }
  return {
    renew,
    async keep() {
      let waitMs = leaseMs / renewals
      for (;;) {
        const turn = new AbortController()
        hurried = () => turn.abort()
        const woken = AbortSignal.any([signal, turn.signal])
        await delay(waitMs, undefined, { signal: woken }).catch(ignore)
        signal.throwIfAborted()
        try {
          await deps.streams.settle(await renew())
          waitMs = leaseMs / renewals
        } catch (error) {
          // Cut off, or a lie: what is known stands until the lease is over.
          if (error instanceof LinkRefusedError || error instanceof StatementError) throw error
          waitMs = retryMs
        }
      }
    },
    hurry: () => hurried?.(),
    lists: (stream) => listed.has(stream),
  }
}

function ignore(): void {
  // It was aborted.
}
