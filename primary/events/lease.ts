import type { Logger } from '../../shared/observability/log.ts'
import type { LogPlace } from '../../shared/replication/chain.ts'
import { covers, type RosterEdge } from '../../shared/replication/events.ts'
import { leaseMs, type Lease, type LeaseRequest } from '../../shared/replication/lease.ts'
import { signStatement, statementTypes, type Envelope } from '../../shared/trust/statement.ts'
import type { KeyRing } from '../store/keys.ts'
import type { EdgeState, EdgeStates } from '../store/edge-states.ts'
import { batchRows, type Events } from '../store/events.ts'
import type { PlaceCheck } from './shown-place.ts'

export interface Leases {
  /** Answers one request; what it reports is written down soon. */
  grant(edge: RosterEdge, request: LeaseRequest): Promise<Envelope>
  /** Writes what is left to be written. */
  close(): Promise<void>
}

export interface LeasesDeps {
  readonly events: Pick<Events, 'position'>
  readonly states: Pick<EdgeStates, 'put'>
  readonly projectIds: () => Promise<readonly number[]>
  /** Tells all edges where this one is reached now. */
  readonly setPeerUrl: (edgeId: string, url: string | undefined) => Promise<void>
  /** @throws ApiError UNAVAILABLE where no lease may be given */
  readonly checkPlace: PlaceCheck
  readonly signing: () => KeyRing['signing']
  readonly log: Logger
  readonly now: () => number
}

/** How long states wait for others to be written with. */
const writeMs = 500

/** Leases: an edge may answer by what it has recorded, once that is all that there was when it asked. */
export function createLeases({
  events,
  states,
  projectIds,
  setPeerUrl,
  checkPlace,
  signing,
  log,
  now,
}: LeasesDeps): Leases {
  const waiting = new Map<string, EdgeState>()
  let writing: Promise<void> = Promise.resolve()
  const writeAll = async (): Promise<void> => {
    const taken = [...waiting.values()]
    waiting.clear()
    try {
      await states.put(taken)
    } catch (err) {
      log.warn(
        { err },
        'what edges said of themselves could not be written down; they say it again',
      )
    }
  }
  const timer = setInterval(() => {
    if (waiting.size > 0) writing = writing.then(writeAll)
  }, writeMs).unref()
  const readHead = createSharedRead(() => headOf(events))
  const readProjects = createSharedRead(projectIds)

  return {
    async grant(edge, { nonce, peerUrl, proof, ...state }) {
      const { applied } = state
      await checkPlace(edge, { applied, ...(proof !== undefined && { proof }) })
      if (peerUrl !== edge.peerUrl) await setPeerUrl(edge.edgeId, peerUrl)
      waiting.set(edge.edgeId, { edgeId: edge.edgeId, ...state, seenAt: new Date(now()) })
      const { scope } = edge
      // Before the head: a project that comes to be in between is told of by the log.
      const all = await readProjects()
      const lease: Lease = {
        nonce,
        edgeId: edge.edgeId,
        head: await readHead(),
        streams: ['system', ...all.filter((id) => covers(scope, id)).map((id) => `project:${id}`)],
        leaseMs,
      }
      return signStatement(statementTypes.lease, lease, signing())
    },
    async close() {
      clearInterval(timer)
      await writing
      await writeAll()
    },
  }
}

/** Where the log ends, or will once all that is committed is numbered: an edge without that would not know all. */
async function headOf(events: LeasesDeps['events']): Promise<LogPlace> {
  const { epoch, seq, waiting } = await events.position()
  if (waiting === undefined) return { epoch, seq }
  const most = waiting.newest - waiting.oldest + 1
  // The next batch holds them all. A backlog has at most as many as it has ids: too many for now, and asked again.
  return { epoch, seq: seq + (most > batchRows ? most : 1) }
}

/** One read for all who wait: it began after each of them had come. */
function createSharedRead<Value>(read: () => Promise<Value>): () => Promise<Value> {
  let running: Promise<Value> | undefined
  let next: Promise<Value> | undefined
  const begin = (): Promise<Value> => {
    const mine = read().finally(() => {
      if (running === mine) running = undefined
    })
    running = mine
    return mine
  }
  return () => {
    if (running === undefined) return begin()
    // The one that runs began before we came.
    next ??= running.then(ignore, ignore).then(() => {
      next = undefined
      return begin()
    })
    return next
  }
}

function ignore(): void {
  // It is another's.
}
