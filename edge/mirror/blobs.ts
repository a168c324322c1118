import type { Fills, FillReader, FillStart } from '../../shared/fill/fills.ts'
import type { FillPriority } from '../../shared/fill/lanes.ts'
import type { OpenedSink, Sink } from '../../shared/fill/sink.ts'
import type { Spread } from '../../shared/fill/spread.ts'
import { maxFillBytes } from '../../shared/fill/segments.ts'
import type { Digest } from '../../shared/oci/digest.ts'
import { maxPieceListBytes, PieceListError } from '../../shared/replication/piece-list.ts'
import type { BlobHandle } from '../../shared/stream/blob-handle.ts'
import type { RosterEdge } from '../../shared/replication/events.ts'
import { SourceError } from '../../shared/stream/blob-source.ts'
import type { UpstreamClient, UpstreamRequest } from '../../shared/upstream/fetch.ts'
import { readExactly } from '../../shared/stream/read-exactly.ts'
import type { CachedBlobs } from '../cache/blobs.ts'
import type { Origin } from '../cache/cache-index.ts'
import type { MemoryCache } from '../cache/memory.ts'
import type { Doubt } from '../cache/proofs.ts'
import { ownerOf } from '../cache/shares.ts'
import type { Sources } from '../sources/sources.ts'
import type { PieceLists } from './piece-lists.ts'
import { isRefusal } from '../upstreams/refused.ts'
import { createShare } from '../upstreams/share.ts'
import { keyOf as questionOf, withoutSignal } from './questions.ts'

/** A blob to be sent; a handle is closed by who got it. */
export type OpenedBlob =
  | BlobInMemory
  | { readonly kind: 'disk'; readonly handle: BlobHandle }
  | { readonly kind: 'fill'; readonly handle: FillReader }

interface BlobInMemory {
  readonly kind: 'memory'
  readonly bytes: Buffer
}

export interface Blobs {
  /** A blob of the origin's repository that is in memory; undefined says nothing. */
  known(origin: Origin, digest: Digest): BlobInMemory | undefined
  /** Bytes of a blob in the origin's repository, without fetching it; undefined when it is not there. */
  size(origin: Origin, digest: Digest, request: UpstreamRequest): Promise<number | undefined>
  /** Whether bytes of this digest are here, for whichever repository, or on their way for this one. */
  isHere(origin: Origin, digest: Digest): boolean
  /**
   * Opens a blob of the origin's repository: held, or on its way.
   * @param doubt as for the cache's `open`
   * @throws SourceError when it is not to be had
   */
  open(origin: Origin, digest: Digest, request: UpstreamRequest, doubt?: Doubt): Promise<OpenedBlob>
  /**
   * Has a blob of the origin's repository fetched that nobody waits for yet, behind all those that clients wait for;
   * resolves when it is held. What it is let go of by the request's signal goes on while others want it, else it is parked.
   * @throws SourceError when it will not be; the signal's reason
   */
  prefetch(
    origin: Origin,
    digest: Digest,
    request: UpstreamRequest,
    together?: FetchedTogether,
  ): Promise<void>
}

/** Other edges fetch it too. */
export interface FetchedTogether {
  /** Bytes, as its manifest says. */
  readonly size: number
  /** Which edges do. */
  readonly isSharer: (edge: RosterEdge) => boolean
}

export interface BlobsDeps {
  readonly blobs: CachedBlobs
  readonly memory: MemoryCache
  readonly fills: Fills
  readonly client: (upstream: string) => UpstreamClient
  readonly sources: Pick<Sources, 'of' | 'keyOf' | 'spread' | 'homes'>
  /** Without, only whole blobs are proved. */
  readonly pieceLists?: Pick<PieceLists, 'proofOf' | 'isListed'>
}

interface Wanted {
  readonly request: UpstreamRequest
  readonly priority: FillPriority
  readonly together?: FetchedTogether | undefined
}

interface JoinedFill {
  readonly handle: FillReader
  /** Its sources are asked for this very repository. */
  readonly isOwn: boolean
}

/** Blobs of all upstreams, through the cache and the fills. */
export function createBlobs({
  blobs,
  memory,
  fills,
  client,
  sources,
  pieceLists,
}: BlobsDeps): Blobs {
  /** Who began the running fill of a key, and is asked for at its source. */
  const beginners = new Map<string, Origin>()

  const inMemory = (digest: Digest): BlobInMemory | undefined => {
    const bytes = memory.get(digest)
    if (bytes === undefined) return undefined
    blobs.used(digest)
    return { kind: 'memory', bytes }
  }

  const openHeld = async (
    digest: Digest,
    doubt: Doubt | undefined,
  ): Promise<OpenedBlob | undefined> => {
    const hot = inMemory(digest)
    if (hot !== undefined) return hot
    const size = blobs.size(digest)
    if (size === undefined) return undefined
    if (size > memory.entryMaxBytes) {
      const handle = await blobs.open(digest, doubt)
      return handle && { kind: 'disk', handle }
    }
    const bytes = await blobs.readAll(digest)
    if (bytes === undefined) return undefined
    memory.put(digest, bytes)
    return { kind: 'memory', bytes }
  }

  const vouchOnce = createShare<boolean>()
  /**
   * Links the digest to the repository if an Outport primary says, to this edge itself, that it is there. A third
   * party's word is not enough: it must deliver the bytes. Who comes meanwhile shares the answer: cold clients of one
   * blob come by the hundred.
   */
  const linkIfVouchedFor = async (
    origin: Origin,
    digest: Digest,
    request: UpstreamRequest,
  ): Promise<boolean> => {
    const upstream = client(origin.upstream)
    if (upstream.entry.kind !== 'primary') return false
    return vouchOnce(questionOf(origin, digest, request), async () => {
      const asked = withoutSignal(request)
      if ((await upstream.headBlob(origin.repository, digest, asked)) === undefined) return false
      await blobs.addLink(origin, digest, {})
      return true
    })
  }

  /**
   * The link comes before the stored blob: nobody finds that without the link of who brought it, and asks the
   * primary for what it has just given. It is true by then, since a fill commits only what is proved (fill.ts,
   * `run`). A disk that fails after it leaves a link without bytes, which leads to a new fill.
   */
  const openLinkingSink = async (
    key: string,
    digest: Digest,
    origin: Origin,
  ): Promise<OpenedSink> => {
    beginners.set(key, origin)
    const forget = () => {
      if (beginners.get(key) === origin) beginners.delete(key)
    }
    try {
      const opened = await blobs.openSink(digest, ownerOf(origin))
      const sink: Sink = {
        ...opened.sink,
        async commit(size) {
          await blobs.addLink(origin, digest, {})
          await opened.sink.commit(size)
        },
        async close() {
          forget()
          await opened.sink.close()
        },
      }
      return { ...withoutEnd(opened), sink }
    } catch (error) {
      forget()
      throw error
    }
  }

  /**
   * Joins the fill of the digest, or begins it.
   * @returns undefined when who began it has no right to the blob: that says nothing about another
   */
  const join = async (
    origin: Origin,
    digest: Digest,
    { request, priority, together }: Wanted,
  ): Promise<JoinedFill | undefined> => {
    // What a joiner's sources are asked with is kept as long as the fill.
    const { signal, ...asked } = request
    const { hop } = asked
    const spread = together && sources.spread(origin, digest, together)
    // The home of a part asks upwards alone: a neighbour would ask it back.
    const above = () => sources.of(origin, digest, { ...asked, hop: upwards })
    const all = () => (spread === undefined ? sources.of(origin, digest, asked) : above())
    const { key, isShared } = sources.keyOf(origin, digest)
    /** Undefined before it is known whether the homes of its parts are asked, and where they are not. */
    let homes: Spread | undefined
    const mayAskHomes = spread === undefined && hasHomes(origin, digest, hop)
    let began = false
    const isOwn = () => began || !isShared || isSameRepository(beginners.get(key), origin)
    const openSink = () => {
      began = true
      return openLinkingSink(key, digest, origin)
    }
    try {
      const start = {
        digest,
        sources: mayAskHomes ? () => (homes === undefined ? all() : above()) : { once: all },
        openSink,
        priority,
        expectedSize: together?.size,
        spread,
        homes: mayAskHomes
          ? (size: number) => (homes = sources.homes(origin, digest, size))
          : undefined,
        partsOnly: isPartOnly(hop),
        proof: () => proofOf(origin, digest, hop),
        forEdge: readerOf(hop),
        ...(signal && { signal }),
      }
      const handle = await fills.join(key, start)
      return { handle, isOwn: isOwn() }
    } catch (error) {
      // Nor does what another caller's credential was refused.
      const isOthers = !isOwn() || (!began && request.identity !== undefined)
      if (isOthers && isRefusal(error)) return undefined
      throw error
    }
  }

  /** Whether others may be asked for the parts of a blob: its pieces are listed, and no neighbour takes this edge for a home of it. */
  const hasHomes = (origin: Origin, digest: Digest, hop: UpstreamRequest['hop']): boolean =>
    hop?.isSideways !== true && pieceLists?.isListed(origin, digest) === true

  /** The list of a blob's pieces is a blob as any other, and comes the way that this one does. */
  const proofOf = async (origin: Origin, digest: Digest, hop: UpstreamRequest['hop']) =>
    pieceLists?.proofOf(origin, digest, async (list) => {
      const asked = hop && { hop: { via: hop.via, isSideways: hop.isSideways, onlyHeld: false } }
      return bytesOf(await open(origin, list, { request: asked ?? {}, priority: 'client' }))
    })

  /** Who has joined another repository's fill needs a link, or the primary's word, before it is shown a byte. */
  const fill = async (origin: Origin, digest: Digest, wanted: Wanted): Promise<FillReader> => {
    const { request } = wanted
    let joined = await join(origin, digest, wanted)
    while (joined === undefined) joined = await join(origin, digest, wanted)
    const { handle, isOwn } = joined
    let mayRead = isOwn || blobs.link(origin, digest) !== undefined
    try {
      mayRead ||= await linkIfVouchedFor(origin, digest, request)
    } finally {
      if (!mayRead) await handle.close()
    }
    if (mayRead) return handle
    throw new SourceError('absent', 'the primary has no such blob in this repository')
  }

  /** Whether the repository may show what is held under this digest. */
  const mayShow = async (
    origin: Origin,
    digest: Digest,
    request: UpstreamRequest,
  ): Promise<boolean> => {
    await blobs.know(digest)
    if (blobs.link(origin, digest) !== undefined) return true
    return blobs.size(digest) !== undefined && (await linkIfVouchedFor(origin, digest, request))
  }

  const open = async (
    origin: Origin,
    digest: Digest,
    wanted: Wanted & { readonly doubt?: Doubt | undefined },
  ): Promise<OpenedBlob> => {
    // What is coming is not looked for on the disk: those that wait for it are many, and come at once.
    const isComing = fills.isRunning(sources.keyOf(origin, digest).key)
    const held =
      !isComing && (await mayShow(origin, digest, wanted.request))
        ? await openHeld(digest, wanted.doubt)
        : undefined
    return held ?? { kind: 'fill', handle: await fill(origin, digest, wanted) }
  }

  return {
    known: (origin, digest) =>
      blobs.link(origin, digest) === undefined ? undefined : inMemory(digest),
    async size(origin, digest, request) {
      await blobs.know(digest)
      if (blobs.link(origin, digest) !== undefined) {
        const size = memory.get(digest)?.length ?? blobs.size(digest)
        if (size !== undefined) return size
      }
      return (await client(origin.upstream).headBlob(origin.repository, digest, request))?.size
    },
    isHere: (origin, digest) =>
      blobs.size(digest) !== undefined || fills.has(sources.keyOf(origin, digest).key),
    open: (origin, digest, request, doubt) =>
      open(origin, digest, { request, priority: 'client', doubt }),
    async prefetch(origin, digest, request, together) {
      // Not opened: that would count as a use.
      if ((await mayShow(origin, digest, request)) && blobs.size(digest) !== undefined) return
      const { signal } = request
      const handle = await fill(origin, digest, { request, priority: 'prefetch', together })
      const letGo = () => void handle.close()
      signal?.addEventListener('abort', letGo, { once: true })
      try {
        signal?.throwIfAborted()
        await handle.whole()
      } catch (error) {
        signal?.throwIfAborted()
        throw error
      } finally {
        signal?.removeEventListener('abort', letGo)
        await handle.close()
      }
    },
  }
}

/**
 * Bytes that an earlier fill left may be another repository's. The last one has to be asked for whatever else is
 * here: so nothing is proved, and linked, that was not given for this very repository, by its upstream or by one of
 * the mirrors that stand for that.
 */
function withoutEnd(opened: OpenedSink): OpenedSink {
  const { held, size } = opened
  // Without a size nothing is proved before a source has named one.
  if (held === undefined || size === undefined) return opened
  return {
    ...opened,
    held: held.map(({ start, end }) => ({ start, end: Math.min(end, size - 1) })),
  }
}

function isSameRepository(one: Origin | undefined, { repository, project }: Origin): boolean {
  return one?.repository === repository && one.project === project
}

/** All of a blob that is no larger than a list of pieces may be. */
async function bytesOf(opened: OpenedBlob): Promise<Buffer> {
  if (opened.kind === 'memory') return opened.bytes
  const { handle } = opened
  try {
    if (handle.size > maxListBytes)
      throw new PieceListError('this is too long for a list of pieces')
    const bytes = Buffer.alloc(handle.size)
    await readExactly(handle, bytes)
    return bytes
  } finally {
    await handle.close()
  }
}

const maxListBytes = maxPieceListBytes(maxFillBytes)

/** A neighbour that asks for a part, or for no more than is here, proves it itself. */
function readerOf(hop: UpstreamRequest['hop']): FillStart['forEdge'] {
  if (hop === undefined) return undefined
  if (!hop.isSideways) return 'relay'
  if (hop.part !== undefined) return 'home'
  return hop.onlyHeld ? 'other' : 'relay'
}

/** A neighbour takes this edge for the home of a part, of which nothing need be here. */
function isPartOnly(hop: UpstreamRequest['hop']): boolean {
  return hop?.isSideways === true && hop.part !== undefined && !hop.onlyHeld
}

const upwards = { via: [], isSideways: true, onlyHeld: false } as const
