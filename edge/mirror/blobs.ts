import type { Fills, FillReader } from '../../shared/fill/fills.ts'
import type { OpenedSink, Sink } from '../../shared/fill/sink.ts'
import type { Digest } from '../../shared/oci/digest.ts'
import type { BlobHandle } from '../../shared/stream/blob-handle.ts'
import { SourceError } from '../../shared/stream/blob-source.ts'
import type { UpstreamClient, UpstreamRequest } from '../../shared/upstream/fetch.ts'
import type { CachedBlobs } from '../cache/blobs.ts'
import type { Origin } from '../cache/cache-index.ts'
import type { MemoryCache } from '../cache/memory.ts'
import type { BlobSources } from '../sources/sources.ts'

/** A blob to be sent; a handle is closed by who got it. */
export type OpenedBlob =
  | { readonly kind: 'memory'; readonly bytes: Buffer }
  | { readonly kind: 'disk'; readonly handle: BlobHandle }
  | { readonly kind: 'fill'; readonly handle: FillReader }

export interface Blobs {
  /** Bytes of a blob in the origin's repository, without fetching it; undefined when it is not there. */
  size(origin: Origin, digest: Digest, request: UpstreamRequest): Promise<number | undefined>
  /**
   * Opens a blob of the origin's repository: held, or on its way.
   * @throws SourceError when it is not to be had
   */
  open(origin: Origin, digest: Digest, request: UpstreamRequest): Promise<OpenedBlob>
}

export interface BlobsDeps {
  readonly blobs: CachedBlobs
  readonly memory: MemoryCache
  readonly fills: Fills
  readonly client: (upstream: string) => UpstreamClient
  readonly sources: BlobSources
}

/** The repositories that take part in one fill: each gets its link once the bytes are proved. */
type Members = Map<string, Origin>

/** Blobs of all upstreams, through the cache and the fills. */
export function createBlobs({ blobs, memory, fills, client, sources }: BlobsDeps): Blobs {
  /** Of the running fill of a key. */
  const running = new Map<string, Members>()

  const openHeld = async (digest: Digest): Promise<OpenedBlob | undefined> => {
    const hot = memory.get(digest)
    if (hot !== undefined) return { kind: 'memory', bytes: hot }
    const size = blobs.size(digest)
    if (size === undefined) return undefined
    if (size > memory.entryMaxBytes) {
      const handle = await blobs.open(digest)
      return handle && { kind: 'disk', handle }
    }
    const bytes = await blobs.readAll(digest)
    if (bytes === undefined) return undefined
    memory.put(digest, bytes)
    return { kind: 'memory', bytes }
  }

  /**
   * Whether an Outport primary says, to this edge itself, that the repository has the digest. A third
   * party's word is not enough: it must deliver the bytes.
   */
  const isVouchedFor = async (
    origin: Origin,
    digest: Digest,
    request: UpstreamRequest,
  ): Promise<boolean> => {
    const upstream = client(origin.upstream)
    if (upstream.entry.kind !== 'primary') return false
    return (await upstream.headBlob(origin.repository, digest, request)) !== undefined
  }

  /** Only once the bytes are proved do the repositories that took part get their links. */
  const openLinkingSink = async (
    key: string,
    digest: Digest,
    members: Members,
  ): Promise<OpenedSink> => {
    running.set(key, members)
    const forget = () => {
      if (running.get(key) === members) running.delete(key)
    }
    try {
      const opened = await blobs.openSink(digest)
      const sink: Sink = {
        ...opened.sink,
        async commit(size) {
          await opened.sink.commit(size)
          for (const origin of members.values()) await blobs.addLink(origin, digest, {})
        },
        async close() {
          forget()
          await opened.sink.close()
        },
      }
      return { ...opened, sink }
    } catch (error) {
      forget()
      throw error
    }
  }

  const join = (origin: Origin, digest: Digest, request: UpstreamRequest): Promise<FillReader> => {
    const { key, list } = sources.of(origin, digest, request)
    return fills.join(key, {
      digest,
      sources: list,
      openSink: () => openLinkingSink(key, digest, new Map([[origin.repository, origin]])),
      ...(request.signal && { signal: request.signal }),
    })
  }

  /**
   * Takes part in a fill that another repository of the same primary began. That one may turn out to have no
   * right to it, which says nothing about this one: then it begins a fill of its own.
   */
  const takePart = async (
    origin: Origin,
    digest: Digest,
    request: UpstreamRequest,
  ): Promise<FillReader> => {
    if (!(await isVouchedFor(origin, digest, request))) {
      throw new SourceError('absent', 'the primary has no such blob in this repository')
    }
    const { key } = sources.of(origin, digest, request)
    running.get(key)?.set(origin.repository, origin)
    try {
      return await join(origin, digest, request)
    } catch (error) {
      if (!isRefusal(error)) throw error
      return join(origin, digest, request)
    }
  }

  const fill = async (
    origin: Origin,
    digest: Digest,
    request: UpstreamRequest,
  ): Promise<OpenedBlob> => {
    const { key } = sources.of(origin, digest, request)
    const mayJoin =
      client(origin.upstream).entry.kind !== 'primary' ||
      !fills.has(key) ||
      isMember(running.get(key), origin)
    const handle = await (mayJoin ? join : takePart)(origin, digest, request)
    return { kind: 'fill', handle }
  }

  return {
    async size(origin, digest, request) {
      if (blobs.link(origin, digest) !== undefined) {
        const size = memory.get(digest)?.length ?? blobs.size(digest)
        if (size !== undefined) return size
      }
      return (await client(origin.upstream).headBlob(origin.repository, digest, request))?.size
    },
    async open(origin, digest, request) {
      if (blobs.link(origin, digest) !== undefined)
        return (await openHeld(digest)) ?? fill(origin, digest, request)
      if (blobs.size(digest) === undefined) return fill(origin, digest, request)
      if (!(await isVouchedFor(origin, digest, request))) return fill(origin, digest, request)
      await blobs.addLink(origin, digest, {})
      return (await openHeld(digest)) ?? fill(origin, digest, request)
    },
  }
}

function isMember(members: Members | undefined, { repository, project }: Origin): boolean {
  const member = members?.get(repository)
  return member !== undefined && member.project === project
}

/** Whether a source said no, rather than that it cannot answer now. */
function isRefusal(error: unknown): boolean {
  return error instanceof SourceError && (error.code === 'absent' || error.code === 'refused')
}
