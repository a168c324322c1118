import { LRUCache } from 'lru-cache'
import type { Digest } from '../../shared/oci/digest.ts'
import { OciError } from '../../shared/oci/errors.ts'
import { acceptsIndex, isIndexMediaType } from '../../shared/oci/media-types.ts'
import type { Reference, RepositoryName, Tag } from '../../shared/oci/reference.ts'
import type { BlobHandle } from '../../shared/stream/blob-handle.ts'
import { readExactly } from '../../shared/stream/read-exactly.ts'
import type { Caller, RepositoryFacts, StoredBlob } from '../accounts/caller.ts'
import type { FollowedCache } from '../events/followed-cache.ts'
import type { BlobReader } from '../store/blobs.ts'
import type { Manifests, StoredManifest } from '../store/manifests.ts'
import type { Tags } from '../store/tags.ts'
import type { Access, Grant } from './access.ts'
import type { PullCounts } from './pull-counts.ts'

/** Blobs up to this size are held in memory whole. */
const smallBlobBytes = 1024 * 1024

export interface PullDeps {
  readonly access: Access
  readonly manifests: Manifests
  readonly tags: Tags
  readonly blobs: BlobReader
  readonly hotManifests: FollowedCache<HotManifest>
  readonly hotTags: FollowedCache<HotTag>
  readonly counts: PullCounts
  /** Drops what caches hold of these subjects. */
  readonly invalidate: (subjects: readonly string[]) => void
  /** Bytes of small blobs that memory may hold. */
  readonly smallBlobsBytes: number
}

/** What a client uploaded must never run in a browser as if it were ours. */
export const userBytesHead = {
  'X-Content-Type-Options': 'nosniff',
  'Content-Security-Policy': "default-src 'none'; sandbox",
} as const

/** A manifest with the head that goes before it, ready to be written. */
export interface HotManifest {
  readonly stored: StoredManifest
  readonly repository: RepositoryFacts
  /** The answer to a request by digest: its content never changes. */
  readonly byDigest: Readonly<Record<string, string | number>>
  /** The answer to a request by tag: caches ask again. */
  readonly byTag: Readonly<Record<string, string | number>>
}

export interface HotTag {
  readonly repository: RepositoryFacts
  readonly tag: Tag
  readonly digest: Digest
}

export interface ManifestAnswer {
  readonly repository: RepositoryFacts
  readonly digest: Digest
  readonly head: Readonly<Record<string, string | number>>
  readonly body: Buffer
}

/** A blob to send: whole in memory, or a handle that the caller closes. */
export type OpenBlob =
  | { readonly digest: Digest; readonly bytes: Buffer }
  | { readonly digest: Digest; readonly handle: BlobHandle }
  | { readonly digest: Digest; readonly redirect: URL }

interface Target {
  readonly caller: Caller
  readonly repository: RepositoryName
}

export type Pull = ReturnType<typeof createPull>

/** What a client may read. [distribution-spec, Pull] */
export function createPull(deps: PullDeps) {
  const { access, manifests, hotManifests, hotTags, blobs } = deps
  const small = new LRUCache<string, Buffer>({
    maxSize: deps.smallBlobsBytes,
    maxEntrySize: smallBlobBytes,
    // An entry costs something beside its bytes, and empty blobs exist.
    sizeCalculation: (bytes) => bytes.length + 256,
  })

  const findByDigest = (repository: RepositoryFacts, digest: Digest) =>
    hotManifests.get(`${repository.id}@${digest}`, manifestSubjects, async () => {
      const stored = await manifests.get(repository.id, digest)
      return stored && heat(stored, repository)
    })

  /** 'gone' when the tag names a manifest that is not there. */
  const findByTag = async (
    repository: RepositoryFacts,
    tag: Tag,
  ): Promise<HotManifest | 'gone' | undefined> => {
    const hot = await hotTags.get(`${repository.id}:${tag}`, tagSubjects, async () => {
      const digest = await deps.tags.resolve(repository.id, tag)
      return digest && { repository, tag, digest }
    })
    return hot && ((await findByDigest(repository, hot.digest)) ?? 'gone')
  }

  const findManifest = async (
    repository: RepositoryFacts,
    reference: Reference,
  ): Promise<HotManifest | undefined> => {
    if (reference.kind === 'digest') return findByDigest(repository, reference.digest)
    const { tag } = reference
    const found = await findByTag(repository, tag)
    if (found !== 'gone') return found
    // The tag moved on, and what it had named was deleted, between the two: once more, from the database.
    deps.invalidate([tagSubject(repository, tag)])
    const fresh = await findByTag(repository, tag)
    return fresh === 'gone' ? undefined : fresh
  }

  const open = async (stored: StoredBlob): Promise<OpenBlob | undefined> => {
    const { digest, key, size } = stored
    const held = small.get(key)
    if (held !== undefined) return { digest, bytes: held }
    const opened = await blobs.open(key)
    if (opened === undefined) return undefined
    if ('redirect' in opened) return { digest, redirect: opened.redirect }
    if (size > smallBlobBytes) return { digest, handle: opened }
    try {
      const bytes = await readWhole(opened)
      small.set(key, bytes)
      return { digest, bytes }
    } finally {
      await opened.close()
    }
  }

  return {
    /**
     * A manifest by tag or digest, counted as a pull where the client is sent it.
     * @param reference undefined: the text is neither, and so names nothing
     * @throws OciError MANIFEST_UNKNOWN, NAME_UNKNOWN, or a refusal of `allow`
     */
    async manifest({
      caller,
      repository,
      reference,
      accept,
      counted,
    }: Target & {
      readonly reference: Reference | undefined
      readonly accept: string | undefined
      /** Whether the client is sent what has this digest. */
      readonly counted: (digest: Digest) => boolean
    }): Promise<ManifestAnswer> {
      const grant = await access.allow({ caller, repository, action: 'pull' })
      const known = knownRepository(grant, repository)
      const hot = reference && (await findManifest(known, reference))
      if (reference === undefined || hot === undefined) throw manifestUnknown(repository)
      const { stored } = hot
      const tag = reference.kind === 'tag' ? reference.tag : undefined
      if (tag !== undefined && isIndexMediaType(stored.mediaType) && !acceptsIndex(accept)) {
        throw new OciError(
          'MANIFEST_UNKNOWN',
          `${repository}:${tag} is an index, and the Accept header names no type of index`,
        )
      }
      if (counted(stored.digest)) deps.counts.count(known.id, stored, tag)
      const head = tag === undefined ? hot.byDigest : hot.byTag
      return { repository: known, digest: stored.digest, head, body: stored.content }
    },

    /**
     * Whether a blob is there, and how large: a promise, so what the collector had marked is taken back.
     * @throws OciError BLOB_UNKNOWN, DIGEST_INVALID, or a refusal of `allow`
     */
    async statBlob({
      caller,
      repository,
      digest,
    }: Target & { readonly digest: Digest | undefined }): Promise<StoredBlob> {
      const grant = await access.allow({
        caller,
        repository,
        action: 'pull',
        ...(digest !== undefined && { digest }),
        promise: true,
      })
      if (digest === undefined) throw digestInvalid()
      if (grant.blob === undefined) throw blobUnknown({ repository, digest })
      return grant.blob
    },

    /**
     * A blob's bytes; the caller closes the handle.
     * @throws OciError BLOB_UNKNOWN, DIGEST_INVALID, or a refusal of `allow`
     */
    async openBlob({
      caller,
      repository,
      digest,
    }: Target & { readonly digest: Digest | undefined }): Promise<OpenBlob> {
      if (digest === undefined) {
        await access.allow({ caller, repository, action: 'pull' })
        throw digestInvalid()
      }
      const question = { caller, repository, action: 'pull', digest } as const
      const { blob, repository: facts } = await access.allow(question)
      if (blob === undefined || facts === undefined) throw blobUnknown({ repository, digest })
      const opened = await open(blob)
      if (opened !== undefined) return opened
      // The copy was replaced or collected after this was read: once more, from the database.
      deps.invalidate([`link:${facts.id}:${digest}`])
      const { blob: fresh } = await access.allow(question)
      if (fresh === undefined) throw blobUnknown({ repository, digest })
      const reopened = await open(fresh)
      if (reopened === undefined) {
        throw new Error(
          `the copy ${fresh.key} of ${digest} is registered, and not in the blob store`,
        )
      }
      return reopened
    },
  }
}

function heat(stored: StoredManifest, repository: RepositoryFacts): HotManifest {
  const head = {
    'Docker-Distribution-API-Version': 'registry/2.0',
    'Content-Type': stored.mediaType,
    'Content-Length': stored.content.length,
    'Docker-Content-Digest': stored.digest,
    ETag: `"${stored.digest}"`,
    ...userBytesHead,
  }
  return {
    stored,
    repository,
    byDigest: { ...head, 'Cache-Control': 'private, max-age=31536000, immutable' },
    byTag: { ...head, 'Cache-Control': 'no-cache' },
  }
}

function manifestSubjects({ stored, repository }: HotManifest): string[] {
  return [
    `manifest:${repository.id}:${stored.digest}`,
    `repository:${repository.id}`,
    `project:${repository.projectId}`,
  ]
}

function tagSubject(repository: RepositoryFacts, tag: Tag): string {
  return `tag:${repository.id}:${tag}`
}

function tagSubjects({ repository, tag, digest }: HotTag): string[] {
  return [
    tagSubject(repository, tag),
    `manifest:${repository.id}:${digest}`,
    `repository:${repository.id}`,
    `project:${repository.projectId}`,
  ]
}

async function readWhole(handle: BlobHandle): Promise<Buffer> {
  const bytes = Buffer.allocUnsafeSlow(handle.size)
  await readExactly(handle, bytes)
  return bytes
}

/** The repository that a caller who may pull asks for. */
export function knownRepository(grant: Grant, name: RepositoryName): RepositoryFacts {
  if (grant.repository !== undefined) return grant.repository
  throw new OciError('NAME_UNKNOWN', `the repository ${name} does not exist: push to it first`, {
    detail: { name },
  })
}

export function manifestUnknown(repository: RepositoryName): OciError {
  return new OciError('MANIFEST_UNKNOWN', `${repository} has no such manifest or tag`, {
    detail: { name: repository },
  })
}

export function blobUnknown({
  repository,
  digest,
}: {
  readonly repository: RepositoryName
  readonly digest: Digest
}): OciError {
  return new OciError('BLOB_UNKNOWN', `${repository} has no such blob`, { detail: { digest } })
}

export function digestInvalid(): OciError {
  return new OciError(
    'DIGEST_INVALID',
    'the digest must be sha256:<64 lower-case hex digits> or sha512:<128 lower-case hex digits>',
  )
}
