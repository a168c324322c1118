import { randomUUID } from 'node:crypto'
import { sql, type Transaction } from 'kysely'
import type { Digest } from '../../shared/oci/digest.ts'
import { OciError, type OciErrorEntry } from '../../shared/oci/errors.ts'
import { requiredBlobs, type Descriptor, type Manifest } from '../../shared/oci/manifest.ts'
import type { ManifestMediaType } from '../../shared/oci/media-types.ts'
import type { Tag } from '../../shared/oci/reference.ts'
import type { EventFact } from '../../shared/replication/events.ts'
import type { RepositoryFacts } from '../accounts/caller.ts'
import { appendAudit, type AuditActor, type AuditEntry } from './audit.ts'
import type { Records } from './database.ts'
import { appendEvents } from './outbox.ts'
import { holdRepository, type RepositoryPlace } from './repositories.ts'
import { retryDeadlock } from './retry.ts'
import type { Schema } from './schema.ts'
import { moveTags, type TagConditions } from './tags.ts'

/** A manifest as it is served: the bytes that were pushed, never formatted again. */
export interface StoredManifest {
  readonly id: number
  readonly digest: Digest
  readonly mediaType: ManifestMediaType
  readonly content: Buffer
}

export interface ManifestOrder {
  readonly place: RepositoryPlace
  readonly digest: Digest
  readonly content: Buffer
  readonly manifest: Manifest
  readonly tags: readonly Tag[]
  readonly conditions: TagConditions
  /** Whether a manifest may name blobs and manifests that are not in the repository: mirrors and partial copies do. */
  readonly sparse: boolean
  readonly actor: AuditActor
}

/** What a deletion took away, for the caches. */
export interface RemovedManifest {
  readonly tags: readonly Tag[]
}

/** Missing blobs or manifests that a refusal names one by one. */
const maxNamed = 100

export type Manifests = ReturnType<typeof createManifests>

/** Manifests, and what commits together with one: children, tags, subject and events. */
export function createManifests(records: Records) {
  return {
    async get(repositoryId: number, digest: Digest): Promise<StoredManifest | undefined> {
      const row = await records
        .selectFrom('manifests')
        .select(['id', 'digest', 'media_type', 'content'])
        .where('repository_id', '=', repositoryId)
        .where('digest', '=', digest)
        .where('deleted_at', 'is', null)
        .executeTakeFirst()
      return row && readManifest(row)
    },

    /**
     * Checks that what the manifest needs is in the repository, and commits it with its tags and events.
     * The repository is created when it is new.
     * @throws OciError MANIFEST_BLOB_UNKNOWN with one entry for each missing digest; MANIFEST_INVALID when a
     *   descriptor's size is wrong, or (412) a condition does not hold; NAME_UNKNOWN when the project is gone
     */
    put(order: ManifestOrder, now: Date): Promise<RepositoryFacts> {
      return retryDeadlock(() =>
        records.transaction().execute(async (trx) => {
          const held = await holdRepository(trx, { ...order.place, guardProject: true })
          const { repository } = held
          await holdContent(trx, { order, repositoryId: repository.id })
          const isNew = await insertManifest(trx, { order, repository, now })
          const moved = await moveTags(trx, { ...order, repository, manifestIsNew: isNew, now })
          for (const entry of pushAudit(order)) await appendAudit(trx, entry, now)
          const facts = [
            ...held.facts,
            ...(isNew ? [manifestFact(order, repository)] : []),
            ...moved.map((tag) => tagFact({ repository, tag, digest: order.digest })),
          ]
          await appendEvents(trx, facts, now)
          return repository
        }),
      )
    },

    /**
     * Removes a manifest, the tags on it, and so its place among its subject's referrers.
     * @returns undefined when the repository has no such manifest
     */
    remove(
      {
        repository,
        digest,
        actor,
      }: {
        readonly repository: RepositoryFacts
        readonly digest: Digest
        readonly actor: AuditActor
      },
      now: Date,
    ): Promise<RemovedManifest | undefined> {
      return retryDeadlock(() =>
        records.transaction().execute(async (trx) => {
          const row = await trx
            .selectFrom('manifests')
            .select('id')
            .where('repository_id', '=', repository.id)
            .where('digest', '=', digest)
            .where('deleted_at', 'is', null)
            .forUpdate()
            .executeTakeFirst()
          if (row === undefined) return undefined
          const deletion = { deleted_at: now, deletion_id: randomUUID() }
          const tags = await lockTagsOf(trx, { repositoryId: repository.id, digest })
          await trx
            .updateTable('tags')
            .set(deletion)
            .where('repository_id', '=', repository.id)
            .where('digest', '=', digest)
            .where('deleted_at', 'is', null)
            .execute()
          await trx.updateTable('manifests').set(deletion).where('id', '=', row.id).execute()
          await appendAudit(
            trx,
            {
              actor,
              operation: 'delete',
              resourceType: 'artifact',
              resource: `${repository.name}@${digest}`,
              projectId: repository.projectId,
            },
            now,
          )
          await appendEvents(trx, removalFacts({ repository, digest, tags }), now)
          return { tags }
        }),
      )
    },
  }
}

interface HoldOrder {
  readonly order: ManifestOrder
  readonly repositoryId: number
}

/** Locks what the manifest names against deletion, in one order for everybody, and checks it. */
async function holdContent(trx: Transaction<Schema>, { order, repositoryId }: HoldOrder) {
  const { manifest } = order
  const blobs = [...(manifest.config === undefined ? [] : [manifest.config]), ...manifest.layers]
  const sizes = await holdBlobs(trx, { repositoryId, digests: digestsOf(blobs) })
  const required = requiredBlobs(manifest)
  const missing = required.filter((descriptor) => !sizes.has(descriptor.digest))
  if (missing.length > 0 && !order.sparse) throw missingContent(missing, 'blob')
  checkSizes(blobs, sizes)
  if (manifest.manifests.length === 0) return
  const children = await holdManifests(trx, {
    repositoryId,
    digests: digestsOf(manifest.manifests),
  })
  const absent = manifest.manifests.filter((descriptor) => !children.has(descriptor.digest))
  if (absent.length > 0 && !order.sparse) throw missingContent(absent, 'manifest')
  checkSizes(manifest.manifests, children)
}

interface HeldDigests {
  readonly repositoryId: number
  /** Sorted and without duplicates, so that all transactions lock in one order. */
  readonly digests: readonly Digest[]
}

/**
 * The sizes of those blobs that the repository has; a condemned link or copy becomes live again. What only
 * other repositories have is as good as absent, its size included.
 */
async function holdBlobs(
  trx: Transaction<Schema>,
  { repositoryId, digests }: HeldDigests,
): Promise<ReadonlyMap<string, number>> {
  if (digests.length === 0) return new Map()
  const copies = await trx
    .selectFrom('blobs')
    .select(['key', 'digest', 'size', 'state'])
    .where('digest', '=', sql<string>`ANY(${digests}::text[])`)
    .where('state', '<>', 'gone')
    .orderBy('digest')
    .forKeyShare()
    .execute()
  const links = await trx
    .selectFrom('links')
    .select(['digest', 'condemned_at'])
    .where('repository_id', '=', repositoryId)
    .where('digest', '=', sql<string>`ANY(${digests}::text[])`)
    .orderBy('digest')
    .forKeyShare()
    .execute()
  const linked = new Set(links.map((link) => link.digest))
  const held = copies.filter((copy) => linked.has(copy.digest))
  const condemned = held.filter((copy) => copy.state === 'condemned').map((copy) => copy.key)
  if (condemned.length > 0) {
    await trx
      .updateTable('blobs')
      .set({ state: 'live', condemned_at: null })
      .where('key', 'in', condemned)
      .execute()
  }
  const lapsed = links.filter((link) => link.condemned_at !== null).map((link) => link.digest)
  if (lapsed.length > 0) {
    await trx
      .updateTable('links')
      .set({ condemned_at: null })
      .where('repository_id', '=', repositoryId)
      .where('digest', 'in', lapsed)
      .execute()
  }
  return new Map(held.map((copy) => [copy.digest, copy.size]))
}

async function holdManifests(
  trx: Transaction<Schema>,
  { repositoryId, digests }: HeldDigests,
): Promise<ReadonlyMap<string, number>> {
  const rows = await trx
    .selectFrom('manifests')
    .select(['digest', 'size'])
    .where('repository_id', '=', repositoryId)
    .where('digest', '=', sql<string>`ANY(${digests}::text[])`)
    .where('deleted_at', 'is', null)
    .orderBy('digest')
    .forKeyShare()
    .execute()
  return new Map(rows.map((row) => [row.digest, row.size]))
}

function digestsOf(descriptors: readonly Descriptor[]): readonly Digest[] {
  return [...new Set(descriptors.map((descriptor) => descriptor.digest))].sort()
}

/** One error a digest, as far as anybody would read: a manifest can name tens of thousands. */
function missingContent(missing: readonly Descriptor[], what: 'blob' | 'manifest'): OciError {
  const digests = digestsOf(missing)
  const code = 'MANIFEST_BLOB_UNKNOWN'
  const entries = digests.slice(0, maxNamed).map((digest): OciErrorEntry => ({
    code,
    message: `the ${what} ${digest} is not in this repository: push it before the manifest`,
    detail: { digest },
  }))
  if (digests.length > maxNamed) {
    entries.push({ code, message: `and ${digests.length - maxNamed} more ${what}s are not` })
  }
  const [first, ...more] = entries
  return new OciError('MANIFEST_BLOB_UNKNOWN', first?.message ?? `a ${what} is missing`, {
    detail: first?.detail,
    more,
  })
}

function checkSizes(descriptors: readonly Descriptor[], sizes: ReadonlyMap<string, number>): void {
  for (const { digest, size } of descriptors) {
    const real = sizes.get(digest)
    if (real === undefined || real === size) continue
    throw new OciError(
      'MANIFEST_INVALID',
      `the manifest gives ${digest} ${size} bytes, and it has ${real}`,
      { detail: { digest } },
    )
  }
}

interface InsertOrder {
  readonly order: ManifestOrder
  readonly repository: RepositoryFacts
  readonly now: Date
}

/**
 * Writes the manifest's row, or holds the one that is there.
 * @returns whether it is new
 */
async function insertManifest(
  trx: Transaction<Schema>,
  { order, repository, now }: InsertOrder,
): Promise<boolean> {
  const { manifest, digest, content } = order
  for (;;) {
    const inserted = await trx
      .insertInto('manifests')
      .values({
        repository_id: repository.id,
        digest,
        media_type: manifest.mediaType,
        size: content.length,
        content,
        config_media_type: manifest.config?.mediaType ?? null,
        artifact_type: manifest.artifactType ?? null,
        subject: manifest.subject?.digest ?? null,
        annotations:
          manifest.annotations === undefined ? null : JSON.stringify(manifest.annotations),
        pushed_at: now,
      })
      .onConflict((conflict) =>
        conflict.columns(['repository_id', 'digest']).where('deleted_at', 'is', null).doNothing(),
      )
      .returning('id')
      .executeTakeFirst()
    if (inserted !== undefined) {
      await insertChildren(trx, { manifestId: inserted.id, manifest })
      return true
    }
    const known = await trx
      .selectFrom('manifests')
      .select('media_type')
      .where('repository_id', '=', repository.id)
      .where('digest', '=', digest)
      .where('deleted_at', 'is', null)
      .forKeyShare()
      .executeTakeFirst()
    // Deleted between the two statements: it is new again.
    if (known === undefined) continue
    if (known.media_type !== manifest.mediaType) {
      // One digest has one type, here and in every cache that holds it. [CVE-2021-41190]
      throw new OciError(
        'MANIFEST_INVALID',
        `${digest} is in this repository as ${known.media_type}: push it with that Content-Type`,
      )
    }
    return false
  }
}

async function insertChildren(
  trx: Transaction<Schema>,
  { manifestId, manifest }: { readonly manifestId: number; readonly manifest: Manifest },
): Promise<void> {
  const children = [
    ...(manifest.config === undefined ? [] : [{ kind: 'config', ...manifest.config }]),
    ...manifest.layers.map((layer) => ({ kind: 'layer', ...layer })),
    ...manifest.manifests.map((child) => ({ kind: 'manifest', ...child })),
  ]
  if (children.length === 0) return
  // Arrays, not rows of parameters: a manifest may name more children than a statement has parameters.
  await sql`
    INSERT INTO manifest_children (manifest_id, position, kind, digest, size, media_type)
    SELECT ${manifestId}, child.position, child.kind, child.digest, child.size, child.media_type
    FROM unnest(${children.map((_, index) => index)}::integer[], ${children.map((child) => child.kind)}::text[],
      ${children.map((child) => child.digest)}::text[], ${children.map((child) => child.size)}::bigint[],
      ${children.map((child) => child.mediaType)}::text[])
      AS child (position, kind, digest, size, media_type)`.execute(trx)
}

async function lockTagsOf(
  trx: Transaction<Schema>,
  { repositoryId, digest }: { readonly repositoryId: number; readonly digest: Digest },
): Promise<readonly Tag[]> {
  const rows = await trx
    .selectFrom('tags')
    .select('name')
    .where('repository_id', '=', repositoryId)
    .where('digest', '=', digest)
    .where('deleted_at', 'is', null)
    .orderBy('name')
    .forUpdate()
    .execute()
  return rows.map((row) => row.name as Tag)
}

function readManifest(row: {
  id: number
  digest: string
  media_type: string
  content: Buffer
}): StoredManifest {
  return {
    id: row.id,
    digest: row.digest as Digest,
    mediaType: row.media_type as ManifestMediaType,
    content: row.content,
  }
}

function manifestFact(order: ManifestOrder, repository: RepositoryFacts): EventFact {
  const subject = order.manifest.subject?.digest
  return {
    type: 'manifest',
    projectId: repository.projectId,
    repositoryId: repository.id,
    digest: order.digest,
    mediaType: order.manifest.mediaType,
    size: order.content.length,
    ...(subject !== undefined && { subject }),
  }
}

function tagFact({
  repository,
  tag,
  digest,
}: {
  readonly repository: RepositoryFacts
  readonly tag: Tag
  readonly digest: Digest
}): EventFact {
  return {
    type: 'tag',
    projectId: repository.projectId,
    repositoryId: repository.id,
    tag,
    digest,
  }
}

function removalFacts({
  repository,
  digest,
  tags,
}: {
  readonly repository: RepositoryFacts
  readonly digest: Digest
  readonly tags: readonly Tag[]
}): readonly EventFact[] {
  const place = { projectId: repository.projectId, repositoryId: repository.id }
  return [
    ...tags.map((tag): EventFact => ({ type: 'tag-deleted', ...place, tag })),
    { type: 'manifest-deleted', ...place, digest },
  ]
}

/** One entry for each tag; an untagged push is named by its digest. */
function pushAudit({ place, digest, tags, actor }: ManifestOrder): readonly AuditEntry[] {
  const names = tags.length === 0 ? [`@${digest}`] : tags.map((tag) => `:${tag}`)
  return names.map((name) => ({
    actor,
    operation: 'create',
    resourceType: 'artifact',
    resource: `${place.name}${name}`,
    projectId: place.projectId,
    description: digest,
  }))
}
