import { sql } from 'kysely'
import type { Digest } from '../../shared/oci/digest.ts'
import type { Records } from './database.ts'
import { retryDeadlock } from './retry.ts'

/** The GETs of one manifest since the last flush. */
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
    /**
     * A pull is a GET by tag, or by digest of a manifest that no index of the repository names; every GET
     * renews the time of the last pull.
     */
    async add(counted: readonly CountedPulls[]): Promise<void> {
      const tags = counted.flatMap(({ repositoryId, tags: names, lastAt }) =>
        names.map((name) => ({ repositoryId, name, lastAt })),
      )
      await retryDeadlock(() =>
        records.transaction().execute(async (trx) => {
          await sql`
            UPDATE manifests m SET pulled_at = pulled.at
            FROM unnest(${counted.map((pulls) => pulls.manifestId)}::bigint[],
              ${counted.map((pulls) => pulls.lastAt)}::timestamptz[]) AS pulled (id, at)
            WHERE m.id = pulled.id`.execute(trx)
          await sql`
            UPDATE tags t SET pulled_at = pulled.at
            FROM unnest(${tags.map((tag) => tag.repositoryId)}::integer[],
              ${tags.map((tag) => tag.name)}::text[],
              ${tags.map((tag) => tag.lastAt)}::timestamptz[]) AS pulled (repository_id, name, at)
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
                ${counted.map((pulls) => pulls.byTag)}::integer[],
                ${counted.map((pulls) => pulls.byDigest)}::integer[])
                AS counted (repository_id, digest, by_tag, by_digest)
              GROUP BY counted.repository_id) AS pulled
            WHERE r.id = pulled.repository_id AND pulled.count > 0`.execute(trx)
        }),
      )
    },
  }
}
