import { sql } from 'kysely'
import type { Digest } from '../../shared/oci/digest.ts'
import type { Records } from './database.ts'

/** A manifest that names a subject. */
export interface Referrer {
  /** Grows in the order of pushing; what a page starts after. */
  readonly id: number
  readonly digest: Digest
  readonly mediaType: string
  /** Bytes of the manifest, which also bound its annotations. */
  readonly size: number
  readonly artifactType: string | undefined
  readonly annotations: Readonly<Record<string, string>> | undefined
}

export interface ReferrerQuery {
  readonly repositoryId: number
  readonly subject: Digest
  /** Any of these; empty: all. */
  readonly artifactTypes: readonly string[]
  readonly after: number
}

/** Rows are read until their manifests have this many bytes, whatever their annotations are. */
const batchBytes = 8 * 1024 * 1024
const batchRows = 1000

export type Referrers = ReturnType<typeof createReferrers>

/** Who refers to a subject, present or not. [distribution-spec, Listing Referrers, end-12] */
export function createReferrers(records: Records) {
  const batch = async (query: ReferrerQuery): Promise<readonly Referrer[]> => {
    const { rows } = await sql<ReferrerRow>`
      SELECT id, digest, media_type, size, artifact_type, annotations
      FROM (SELECT *, sum(size) OVER (ORDER BY id) AS running FROM manifests
        WHERE id IN (SELECT id FROM manifests
          WHERE repository_id = ${query.repositoryId} AND subject = ${query.subject}
            AND deleted_at IS NULL AND id > ${query.after}
            AND (${query.artifactTypes.length} = 0 OR artifact_type = ANY(${query.artifactTypes}::text[]))
          ORDER BY id LIMIT ${batchRows})) AS listed
      WHERE running - size <= ${batchBytes} ORDER BY id`.execute(records)
    return rows.map(readReferrer)
  }
  return {
    /** Every referrer after `after`, oldest first, read in bounded batches. */
    async *list(query: ReferrerQuery): AsyncGenerator<Referrer> {
      let { after } = query
      for (;;) {
        const referrers = await batch({ ...query, after })
        yield* referrers
        const last = referrers.at(-1)
        if (last === undefined) return
        after = last.id
      }
    },
  }
}

interface ReferrerRow {
  id: number
  digest: string
  media_type: string
  size: number
  artifact_type: string | null
  annotations: Record<string, string> | null
}

function readReferrer(row: ReferrerRow): Referrer {
  return {
    id: row.id,
    digest: row.digest as Digest,
    mediaType: row.media_type,
    size: row.size,
    artifactType: row.artifact_type ?? undefined,
    annotations: row.annotations ?? undefined,
  }
}
