import type { Scope } from '../../shared/auth/scope.ts'
import type { FollowedCache } from '../events/followed-cache.ts'
import type { BlobStore } from '../store/blobs.ts'
import type { Records } from '../store/database.ts'
import { createLookups, type AccessFacts } from '../store/lookups.ts'
import { createManifests } from '../store/manifests.ts'
import { createPulls } from '../store/pulls.ts'
import { createReferrers } from '../store/referrers.ts'
import { createRepositories } from '../store/repositories.ts'
import { createStoredBlobs } from '../store/stored-blobs.ts'
import { createTags } from '../store/tags.ts'
import { createUploads } from '../store/uploads.ts'
import { createAccess, type Access, type CachedBlob } from './access.ts'
import { createDelete, type Delete } from './delete.ts'
import { createDiscovery, type Discovery } from './discovery.ts'
import { PullCounts } from './pull-counts.ts'
import { createPull, type HotManifest, type HotTag, type Pull } from './pull.ts'
import { createPush, type Push } from './push.ts'
import type { UploadLimits } from './upload-limits.ts'
import { createUploadSessions, type UploadSessions } from './uploads.ts'

export interface RegistryOptions {
  readonly records: Records
  readonly blobs: BlobStore
  readonly caches: RegistryCaches
  /** Drops what caches hold of these subjects, right after a commit of our own. */
  readonly invalidate: (subjects: readonly string[]) => void
  /** The `WWW-Authenticate` header that asks for these scopes. */
  readonly challenge: (scopes: readonly Scope[], error?: 'insufficient_scope') => string
  /** What this primary's claims on uploads begin with; the same after a restart. */
  readonly primaryId: string
  readonly uploadLimits: UploadLimits
  readonly manifestMaxBytes: number
  /** Whether a manifest may name blobs and manifests that are not in the repository. */
  readonly sparse: boolean
  /** Bytes of small blobs that memory may hold. */
  readonly smallBlobsBytes: number
  /** Told of the bytes of each upload that became a blob. */
  readonly onReceived?: (bytes: number) => void
  /** Told of pulls that could not be counted. */
  readonly onCountError: (error: unknown) => void
}

/** What memory holds, as long as no event says that it changed. */
export interface RegistryCaches {
  readonly decisions: FollowedCache<AccessFacts>
  readonly links: FollowedCache<CachedBlob>
  readonly manifests: FollowedCache<HotManifest>
  readonly tags: FollowedCache<HotTag>
}

/** The distribution API as functions; whoever made it closes it. */
export interface Registry {
  readonly access: Access
  readonly pull: Pull
  readonly discovery: Discovery
  readonly push: Push
  readonly uploads: UploadSessions
  readonly remove: Delete
  /** Lets go of what an earlier run of this primary held when it died. */
  recover(): Promise<void>
  /** Writes the pulls that were not written yet. */
  close(): Promise<void>
}

/** Milliseconds: a killed primary's uploads can be gone on with elsewhere after this long. */
const claimMs = 30_000
/** Milliseconds between writes of pull counts: what a crash may lose. */
const countMs = 1000

/** Puts the parts of the distribution API together. */
export function createRegistry(options: RegistryOptions): Registry {
  const { records, blobs, caches, invalidate, challenge, primaryId } = options
  const lookups = createLookups(records)
  const manifests = createManifests(records)
  const tags = createTags(records)
  const storedBlobs = createStoredBlobs(records)
  const pulls = createPulls(records)
  const counts = new PullCounts({
    add: (counted) => pulls.add(counted),
    onError: options.onCountError,
    now: () => new Date(),
    intervalMs: countMs,
  })
  const access = createAccess({
    lookups,
    revive: (blob) => storedBlobs.revive(blob),
    decisions: caches.decisions,
    links: caches.links,
    challenge,
    now: Date.now,
  })
  const uploads = createUploadSessions({
    access,
    records: createUploads(records),
    storedBlobs,
    blobs,
    primaryId,
    limits: options.uploadLimits,
    claimMs,
    ...(options.onReceived && { onReceived: options.onReceived }),
  })
  return {
    access,
    pull: createPull({
      access,
      manifests,
      tags,
      blobs,
      hotManifests: caches.manifests,
      hotTags: caches.tags,
      counts,
      invalidate,
      smallBlobsBytes: options.smallBlobsBytes,
    }),
    discovery: createDiscovery({
      access,
      lookups,
      tags,
      referrers: createReferrers(records),
      repositories: createRepositories(records),
      challenge,
    }),
    push: createPush({
      access,
      manifests,
      storedBlobs,
      invalidate,
      manifestMaxBytes: options.manifestMaxBytes,
      sparse: options.sparse,
    }),
    uploads,
    remove: createDelete({ access, manifests, tags, storedBlobs, invalidate }),
    recover: () => uploads.recover(),
    close: () => counts.close(),
  }
}
