import type { Digest } from '../../shared/oci/digest.ts'
import type { RepositoryName } from '../../shared/oci/reference.ts'
import type { Hedge } from '../../shared/site/hedge.ts'
import { pieceBytes } from '../../shared/fill/segments.ts'
import type { Spread } from '../../shared/fill/spread.ts'
import type { RosterEdge } from '../../shared/replication/events.ts'
import { SourceError, type BlobSource } from '../../shared/stream/blob-source.ts'
import type {
  FetchedManifest,
  UpstreamClient,
  UpstreamRequest,
} from '../../shared/upstream/fetch.ts'
import type { Origin } from '../cache/cache-index.ts'
import { repositoryAtMirror, type Mirrors } from '../upstreams/mirrors.ts'
import { createHomeSpread, createSpread } from './spread.ts'
import { formatPart, formatVia, onlyIfCached, partHeader, viaHeader } from './hops.ts'

/**
 * Where what a digest names may come from: the mirrors of the origin's upstream, in their order, then that itself. The
 * digest proves what comes, so that a mirror is slow or of no use at worst; what nothing proves (tags, lists, sizes) is
 * never asked of one. Whatever a mirror says, the upstream's own answer is the one that counts.
 */
export interface Sources {
  keyOf(origin: Origin, digest: Digest): BlobKey
  /** Of a blob, best first; the upstream's own is the last. They outlive who asks: no request of theirs ends with it. */
  of(
    origin: Origin,
    digest: Digest,
    request: Omit<UpstreamRequest, 'signal'>,
  ): readonly BlobSource[]
  /** How the edges that fetch a blob together share it out; undefined where that is not worth it. */
  spread(
    origin: Origin,
    digest: Digest,
    blob: {
      readonly size: number
      readonly isSharer: (edge: RosterEdge) => boolean
    },
  ): Spread | undefined
  /** Whom of the site to ask for which part of a blob of this size whose pieces are proved alone; undefined where nobody is asked. */
  homes(origin: Origin, digest: Digest, size: number): Spread | undefined
  /** Asks for a manifest. @returns undefined when the upstream itself does not have it @throws SourceError */
  manifest(
    origin: Origin,
    digest: Digest,
    request: UpstreamRequest,
  ): Promise<FetchedManifest | undefined>
  /** This upstream gave bytes that were proved wrong, after clients had got some of them: as a mirror it is left alone for a while. */
  lied(upstream: string): void
}

export interface BlobKey {
  /** Of the fill: who has the same key shares it. */
  readonly key: string
  /** Whether other repositories have this key, too: who joins the fill of one needs a right of its own. */
  readonly isShared: boolean
}

export interface SourcesOptions {
  readonly mirrorsOf?: (upstream: string) => Mirrors
  /** The edges of the site that are asked before anybody else. */
  readonly peersOf?: (origin: Origin, digest: Digest) => readonly MirrorOfRepository[]
  /** When a second peer is asked for a manifest that the first is slow to give; never, without. */
  readonly hedge?: Hedge
  /** The edges nearer to the upstream, which are asked behind those of the site. */
  readonly parentsOf?: (origin: Origin) => readonly MirrorOfRepository[]
  /** Edges of the site that a busy one named. */
  readonly namedPeers?: (origin: Origin, ids: readonly string[]) => readonly MirrorOfRepository[]
  /** Who of the site is asked for what begins with a piece of a blob, its home first. */
  readonly homesOf?: (
    origin: Origin,
    digest: Digest,
  ) => ((piece: number) => readonly Sharer[]) | undefined
  /** Edges of the site that fetch a blob too, each the home of as many parts, in the one order that all of them know. */
  readonly sharersOf?: (
    origin: Origin,
    digest: Digest,
    isSharer: (edge: RosterEdge) => boolean,
  ) => readonly Sharer[]
  /** What this edge calls itself to other edges. */
  readonly edgeId?: string
  /** Milliseconds, monotonic. */
  readonly now?: () => number
}

/** What is asked of a mirror or a peer. */
export type PeerClient = Pick<UpstreamClient, 'entry' | 'getManifest' | 'openBlob'>

/** Somebody who is asked before the upstream. */
export interface MirrorOfRepository {
  readonly client: PeerClient
  readonly repository: RepositoryName
  readonly waitMs: number
  /** The id of the other edge that it is. */
  readonly edge?: string
  /** That edge is asked only for what it has, or is receiving. */
  readonly onlyHeld?: boolean
}

/** An edge that fetches a blob too, or this one itself. */
export type Sharer = MirrorOfRepository | 'me'

/** Smaller ones are there before anything is shared out. */
const spreadFromBytes = 8 * pieceBytes
/** Each lie costs a client its pull: long enough that a broken mirror costs few. */
const lieMs = 600_000

/**
 * The key of a blob says who may share a fill. All repositories of an Outport primary may, once it has vouched for
 * each; those of a third party never do: each must have the bytes delivered to itself, by the upstream or by what its
 * operator says stands for it.
 */
export function createSources(
  client: (upstream: string) => UpstreamClient,
  {
    mirrorsOf = () => ({ list: [], waitMs: 0 }),
    peersOf = () => [],
    hedge,
    parentsOf = () => [],
    namedPeers = () => [],
    homesOf = () => undefined,
    sharersOf = () => [],
    edgeId = '',
    now = () => performance.now(),
  }: SourcesOptions = {},
): Sources {
  const liedAt = new Map<string, number>()
  const isBelieved = ({ id }: { readonly id: string }): boolean =>
    now() - (liedAt.get(id) ?? -Infinity) >= lieMs

  const isUsed = ({ client: { entry } }: MirrorOfRepository): boolean => isBelieved(entry)

  const peersFor = (
    origin: Origin,
    digest: Digest,
    { hop }: UpstreamRequest,
  ): readonly MirrorOfRepository[] =>
    hop?.isSideways === true ? [] : peersOf(origin, digest).filter(isUsed)
  /** Who is asked behind the edges of the site, and before the upstream. */
  const above = (
    origin: Origin,
    peers: readonly MirrorOfRepository[],
  ): readonly MirrorOfRepository[] => {
    const isOther = ({ edge }: MirrorOfRepository) => peers.every((peer) => peer.edge !== edge)
    return [...parentsOf(origin).filter(isOther).filter(isUsed), ...mirrorsFor(origin)]
  }
  const mirrorsFor = ({ upstream, repository }: Origin): readonly MirrorOfRepository[] => {
    const { list, waitMs } = mirrorsOf(upstream)
    return list.filter(isBelieved).flatMap((mirror) => {
      const name = repositoryAtMirror(mirror, repository)
      return name === undefined ? [] : { client: client(mirror.id), repository: name, waitMs }
    })
  }

  /** A mirror is asked with its own credentials: those of the request are for the upstream. */
  const forMirror = (
    { headers, hop }: UpstreamRequest,
    { edge, onlyHeld }: MirrorOfRepository,
  ): UpstreamRequest => {
    if (edge === undefined) return headers === undefined ? {} : { headers }
    return {
      headers: {
        ...headers,
        [viaHeader]: formatVia(hop?.via ?? [], edgeId),
        ...(onlyHeld === true && { 'cache-control': onlyIfCached }),
      },
    }
  }

  const sourceOf = (
    mirror: MirrorOfRepository,
    digest: Digest,
    request: UpstreamRequest,
  ): BlobSource => ({
    ...mirror.client.openBlob(mirror.repository, digest, forMirror(request, mirror)),
    patienceMs: mirror.waitMs,
    isStandIn: true,
  })

  const namedOf =
    (origin: Origin, digest: Digest, request: UpstreamRequest) =>
    (ids: readonly string[]): readonly BlobSource[] => {
      const others = namedPeers(origin, ids).filter(isUsed)
      return others.map((other) => sourceOf({ ...other, onlyHeld: true }, digest, request))
    }
  /**
   * A part of the blob is asked of its home, and of those that it names. Whether a home is slow the others tell, no deadline.
   * @param isFetched the home gets it, also if it has nothing of the blob
   */
  const partSourceOf = (
    origin: Origin,
    home: MirrorOfRepository,
    { digest, isFetched }: { readonly digest: Digest; readonly isFetched: boolean },
  ): BlobSource => {
    const { patienceMs: _, ...source } = sourceOf(home, digest, {})
    return {
      ...source,
      open: (range) => {
        const piece = Math.floor(range.offset / pieceBytes)
        const headers = { [partHeader]: formatPart({ piece, isFetched }) }
        const asHome = sourceOf({ ...home, onlyHeld: true }, digest, { headers })
        return orOthers(asHome, namedOf(origin, digest, {})).open(range)
      },
    }
  }

  const keyOf = (origin: Origin, digest: Digest): BlobKey => {
    const isShared = client(origin.upstream).entry.kind === 'primary'
    return { key: `${origin.upstream}!${isShared ? '' : origin.repository}!${digest}`, isShared }
  }

  return {
    keyOf,
    spread(origin, digest, { size, isSharer }) {
      if (size < spreadFromBytes) return undefined
      const sharers = sharersOf(origin, digest, isSharer)
      const homes = sharers.map((sharer) =>
        sharer === 'me' || !isUsed(sharer)
          ? undefined
          : partSourceOf(origin, sharer, { digest, isFetched: false }),
      )
      return homes.every((home) => home === undefined) ? undefined : createSpread(homes, size)
    },
    homes(origin, digest, size) {
      const rank = size < spreadFromBytes ? undefined : homesOf(origin, digest)
      if (rank === undefined) return undefined
      const known = new Map<Sharer, BlobSource>()
      const sourceFrom = (home: MirrorOfRepository): BlobSource => {
        const source = known.get(home) ?? partSourceOf(origin, home, { digest, isFetched: true })
        known.set(home, source)
        return source
      }
      const sourcesFor = (piece: number): readonly (BlobSource | undefined)[] =>
        rank(piece)
          .filter((home) => home === 'me' || isUsed(home))
          .map((home) => (home === 'me' ? undefined : sourceFrom(home)))
      return createHomeSpread(sourcesFor, size)
    },
    of(origin, digest, request) {
      const upstream = client(origin.upstream)
      const peers = peersFor(origin, digest, request)
      const named = namedOf(origin, digest, request)
      const mirrors = [...peers, ...above(origin, peers)].map((mirror) => {
        const source = sourceOf(mirror, digest, request)
        return mirror.edge === undefined ? source : orOthers(source, named)
      })
      return [...mirrors, upstream.openBlob(origin.repository, digest, request)]
    },
    async manifest(origin, digest, request) {
      const peers = peersFor(origin, digest, request)
      const [home, ...others] = peers
      const soon =
        home && (await soonest(home, others[0], { hedge, digest, requestTo: forMirror, request }))
      if (soon !== undefined) return soon
      for (const mirror of [...others, ...above(origin, peers)]) {
        const found = await manifestOfMirror(mirror, digest, forMirror(request, mirror))
        if (found !== undefined) return found
      }
      const reference = { kind: 'digest', digest } as const
      return client(origin.upstream).getManifest(origin.repository, reference, request)
    },
    lied(upstream) {
      liedAt.set(upstream, now())
    },
  }
}

/**
 * From the home, or, when that is slow, from whoever may stand in for it and holds it: a second one that fetched it too
 * would be a second copy.
 * @returns undefined when neither gives it
 */
async function soonest(
  home: MirrorOfRepository,
  standIn: MirrorOfRepository | undefined,
  {
    hedge,
    digest,
    request,
    requestTo,
  }: {
    readonly hedge: Hedge | undefined
    readonly digest: Digest
    readonly request: UpstreamRequest
    readonly requestTo: (request: UpstreamRequest, mirror: MirrorOfRepository) => UpstreamRequest
  },
): Promise<FetchedManifest | undefined> {
  const toHome = requestTo(request, home)
  if (hedge === undefined || standIn === undefined) return manifestOfMirror(home, digest, toHome)
  const given = async (found: Promise<FetchedManifest | undefined>): Promise<FetchedManifest> => {
    const manifest = await found
    if (manifest === undefined) throw new NotGiven()
    return manifest
  }
  const toStandIn = requestTo(request, { ...standIn, onlyHeld: true })
  try {
    return await hedge.race([
      (signal) => given(manifestOfMirror(home, digest, { ...toHome, signal })),
      (signal) => given(manifestOfMirror(standIn, digest, { ...toStandIn, signal })),
    ])
  } catch (error) {
    if (error instanceof NotGiven) return undefined
    throw error
  }
}

/** For the hedge, to which a peer that does not have it is one that failed. */
class NotGiven extends Error {
  override readonly name = 'NotGiven'
}

/** @returns undefined when the mirror does not give it, for whatever reason, or not in time */
async function manifestOfMirror(
  { client, repository, waitMs }: MirrorOfRepository,
  digest: Digest,
  request: UpstreamRequest,
): Promise<FetchedManifest | undefined> {
  const controller = new AbortController()
  const deadline = setTimeout(() => {
    const message = `${client.entry.id} sends no manifest`
    // For its gate: a mirror that hangs is not asked for long.
    controller.abort(new SourceError('unavailable', message, { isAway: true }))
  }, waitMs)
  try {
    const reference = { kind: 'digest', digest } as const
    const signal =
      request.signal === undefined
        ? controller.signal
        : AbortSignal.any([controller.signal, request.signal])
    return await client.getManifest(repository, reference, { ...request, signal })
  } catch (error) {
    if (error instanceof SourceError) return undefined
    throw error
  } finally {
    clearTimeout(deadline)
  }
}

/** The other edge as a source, and when it is busy those that it names, as far as they are known. */
function orOthers(
  source: BlobSource,
  named: (ids: readonly string[]) => readonly BlobSource[],
): BlobSource {
  return {
    ...source,
    async open(request) {
      try {
        return await source.open(request)
      } catch (error) {
        if (!(error instanceof SourceError) || error.instead === undefined) throw error
        throw new SourceError(error.code, error.message, {
          others: named(error.instead),
          cause: error,
        })
      }
    },
  }
}
