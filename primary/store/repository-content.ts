import { sql, type Kysely } from 'kysely'
import type { Digest } from '../../shared/oci/digest.ts'
import { sizeColumn, typeColumn } from './artifacts.ts'
import type { Schema } from './schema.ts'

/** A repository as rules look at it: all its manifests, and how they hang together. */
export interface RepositoryContent {
  readonly id: number
  readonly projectId: number
  readonly name: string
  readonly manifests: ReadonlyMap<Digest, ContentManifest>
}

export interface ContentManifest {
  readonly digest: Digest
  /** In Harbor's words: `IMAGE`, `CHART`. */
  readonly type: string
  readonly subject: Digest | undefined
  readonly pushedAt: Date
  /** Bytes, with all that it names; 0 unless asked for. */
  readonly size: number
  readonly tags: readonly { readonly name: string; readonly pushedAt: Date }[]
  /** Their names. */
  readonly labels: readonly string[]
  /** What it names as an index. */
  readonly children: readonly Digest[]
}

/**
 * The repositories of these ids that are there, by id.
 * @param withSizes costs a look at every layer
 */
export async function readContents(
  records: Kysely<Schema>,
  ids: readonly number[],
  { withSizes = false }: { readonly withSizes?: boolean } = {},
): Promise<readonly RepositoryContent[]> {
  const among = sql<number>`ANY(${ids}::integer[])`
  const repositories = await records
    .selectFrom('repositories')
    .select(['id', 'project_id as projectId', 'name'])
    .where('id', '=', among)
    .where('deleted_at', 'is', null)
    .orderBy('id')
    .execute()
  const rows = await records
    .selectFrom('manifests as a')
    .select(['a.id', 'a.repository_id', 'a.digest', 'a.subject', 'a.pushed_at'])
    .select([typeColumn.as('type'), (withSizes ? sizeColumn : sql<number>`0::bigint`).as('size')])
    .where('a.repository_id', '=', among)
    .where('a.deleted_at', 'is', null)
    .orderBy('a.id')
    .execute()
  const tags = await records
    .selectFrom('tags')
    .select(['repository_id', 'name', 'digest', 'pushed_at as pushedAt'])
    .where('repository_id', '=', among)
    .where('deleted_at', 'is', null)
    .orderBy('name')
    .execute()
  const labels = await records
    .selectFrom('artifact_labels as x')
    .innerJoin('labels as l', 'l.id', 'x.label_id')
    .innerJoin('manifests as a', 'a.id', 'x.manifest_id')
    .select(['x.manifest_id', 'l.name'])
    .where('a.repository_id', '=', among)
    .where('a.deleted_at', 'is', null)
    .where('l.deleted_at', 'is', null)
    .orderBy('l.id')
    .execute()
  const children = await records
    .selectFrom('manifest_children as c')
    .innerJoin('manifests as a', 'a.id', 'c.manifest_id')
    .select(['c.manifest_id', 'c.digest'])
    .where('a.repository_id', '=', among)
    .where('a.deleted_at', 'is', null)
    .where('c.kind', '=', 'manifest')
    .orderBy('c.position')
    .execute()
  const tagsOf = Map.groupBy(tags, (tag) => `${tag.repository_id} ${tag.digest}`)
  const labelsOf = Map.groupBy(labels, (label) => label.manifest_id)
  const childrenOf = Map.groupBy(children, (child) => child.manifest_id)
  const manifestsOf = Map.groupBy(rows, (row) => row.repository_id)
  return repositories.map((repository) => ({
    ...repository,
    manifests: new Map(
      (manifestsOf.get(repository.id) ?? []).map((row) => {
        const digest = row.digest as Digest
        return [
          digest,
          {
            digest,
            type: row.type,
            subject: (row.subject ?? undefined) as Digest | undefined,
            pushedAt: row.pushed_at,
            size: row.size,
            tags: (tagsOf.get(`${repository.id} ${digest}`) ?? []).map(({ name, pushedAt }) => ({
              name,
              pushedAt,
            })),
            labels: (labelsOf.get(row.id) ?? []).map(({ name }) => name),
            children: (childrenOf.get(row.id) ?? []).map((child) => child.digest as Digest),
          },
        ]
      }),
    ),
  }))
}
