import { sql, type Transaction } from 'kysely'
import type { Digest } from '../../shared/oci/digest.ts'
import type { Records } from './database.ts'
import { retryDeadlock } from './retry.ts'
import type { Schema } from './schema.ts'

/** GETs of one manifest; of one there may be several. */
export interface CountedPulls {
  readonly repositoryId: number
  readonly manifestId: number
  readonly digest: Digest
  readonly byDigest: number
  readonly byTag: number
  /** The tags that they came by. */
  readonly tags: readonly string[]
  readonly lastAt: Date
}

/** Pull counts and times, written in batches: never by the request that is counted. */
export function createPulls(records: Records) {
  return {
    async add(counted: readonly CountedPulls[]): Promise<void> {
      await retryDeadlock(() => records.transaction().execute((trx) => addPulls(trx, counted)))
    },
  }
}

/**
 * A pull is a GET by tag, or by digest of a manifest that no index of the repository names; every GET
 * renews the time of the last pull, which never goes back: edges tell of theirs later.
 */
export async function addPulls(
  trx: Transaction<Schema>,
  counted: readonly CountedPulls[],
): Promise<void> {
  const tags = counted.flatMap(({ repositoryId, tags: names, lastAt }) =>
    names.map((name) => ({ repositoryId, name, lastAt })),
  )
  await sql`
    UPDATE manifests m SET pulled_at = GREATEST(m.pulled_at, pulled.at)
    FROM (
      SELECT id, max(at) AS at
      FROM unnest(${counted.map((pulls) => pulls.manifestId)}::bigint[],
        ${counted.map((pulls) => pulls.lastAt)}::timestamptz[]) AS counted (id, at)
      GROUP BY id) AS pulled
    WHERE m.id = pulled.id`.execute(trx)
  await sql`
    UPDATE tags t SET pulled_at = GREATEST(t.pulled_at, pulled.at)
    FROM (
      SELECT repository_id, name, max(at) AS at
      FROM unnest(${tags.map((tag) => tag.repositoryId)}::integer[],
        ${tags.map((tag) => tag.name)}::text[],
        ${tags.map((tag) => tag.lastAt)}::timestamptz[]) AS counted (repository_id, name, at)
      GROUP BY repository_id, name) AS pulled
    WHERE t.repository_id = pulled.repository_id AND t.name = pulled.name
      AND t.deleted_at IS NULL`.execute(trx)
  await sql`
    UPDATE repositories r SET pull_count = pull_count + pulled.count
    FROM (
      SELECT counted.repository_id, sum(counted.by_tag + CASE WHEN EXISTS (
          SELECT 1 FROM manifest_children c JOIN manifests i ON i.id = c.manifest_id
          WHERE c.digest = counted.digest AND c.kind = 'manifest'
            AND i.repository_id = counted.repository_id AND i.deleted_at IS NULL
        ) THEN 0 ELSE counted.by_digest END) AS count
      FROM unnest(${counted.map((pulls) => pulls.repositoryId)}::integer[],
        ${counted.map((pulls) => pulls.digest)}::text[],
        ${counted.map((pulls) => pulls.byTag)}::bigint[],
        ${counted.map((pulls) => pulls.byDigest)}::bigint[])
        AS counted (repository_id, digest, by_tag, by_digest)
      GROUP BY counted.repository_id) AS pulled
    WHERE r.id = pulled.repository_id AND pulled.count > 0`.execute(trx)
}
