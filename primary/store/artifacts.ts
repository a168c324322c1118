import { sql, type Expression, type SqlBool } from 'kysely'
import { ApiError } from '../../shared/api/errors.ts'
import type { Page } from '../../shared/api/paging.ts'
import type { Fields, Filter, Sort } from '../../shared/api/query.ts'
import type { Digest } from '../../shared/oci/digest.ts'
import { mediaTypes } from '../../shared/oci/media-types.ts'
import type { Reference } from '../../shared/oci/reference.ts'
import type { Records } from './database.ts'
import { applyFilters, readPage, conditionOf } from './filters.ts'
import { labelColumns, readLabel, type Label } from './labels.ts'

/** A manifest as the admin API shows it. */
export interface Artifact {
  readonly id: number
  readonly digest: Digest
  /** What it is in Harbor's words: `IMAGE`, `CHART`; `UNKNOWN` when its media type does not tell. */
  readonly type: string
  /** Of its config; an index has its own. */
  readonly mediaType: string
  readonly manifestMediaType: string
  readonly artifactType: string | undefined
  /** Bytes of the manifest and of what it names; of an index, with what its manifests name. */
  readonly size: number
  readonly pushedAt: Date
  readonly pulledAt: Date | undefined
  /** By name; empty unless asked for. */
  readonly tags: readonly ArtifactTag[]
  /** By id; empty unless asked for. */
  readonly labels: readonly Label[]
}

export interface ArtifactTag {
  readonly id: number
  readonly name: string
  readonly pushedAt: Date
  readonly pulledAt: Date | undefined
}

/** What is shown of artifacts besides themselves. */
export interface ArtifactParts {
  readonly withTags: boolean
  readonly withLabels: boolean
}

export interface ArtifactListing extends ArtifactParts {
  readonly repositoryId: number
  readonly filters: readonly Filter[]
  readonly sorts: readonly Sort[]
  readonly page: Page
}

/** What artifacts may be filtered and sorted by. */
export const artifactFields: Fields = {
  id: { column: 'a.id', type: 'integer' },
  digest: { column: 'a.digest', type: 'text' },
  manifest_media_type: { column: 'a.media_type', type: 'text' },
  artifact_type: { column: 'a.artifact_type', type: 'text' },
  push_time: { column: 'a.pushed_at', type: 'time' },
  pull_time: { column: 'a.pulled_at', type: 'time' },
}

/** What they may be filtered by alone. `tags` is a name, `*` for any, `nil` for none; `labels` are ids. */
export const artifactFilterFields: Fields = {
  type: { column: 'type', type: 'text' },
  media_type: { column: 'media_type', type: 'text' },
  tags: { column: 'tags', type: 'text' },
  labels: { column: 'labels', type: 'integer' },
}

export type Artifacts = ReturnType<typeof createArtifacts>

/** The manifests of a repository as people see them. */
export function createArtifacts(records: Records) {
  const select = (repositoryId: number) =>
    records
      .selectFrom('manifests as a')
      .where('a.repository_id', '=', repositoryId)
      .where('a.deleted_at', 'is', null)

  async function tagsOf(repositoryId: number, digests: readonly string[]) {
    const rows = await records
      .selectFrom('tags')
      .select(['id', 'name', 'digest', 'pushed_at', 'pulled_at'])
      .where('repository_id', '=', repositoryId)
      .where('digest', '=', sql<string>`ANY(${digests}::text[])`)
      .where('deleted_at', 'is', null)
      .orderBy('name')
      .execute()
    return Map.groupBy(rows, (row) => row.digest)
  }

  async function labelsOf(ids: readonly number[]) {
    const rows = await records
      .selectFrom('artifact_labels as x')
      .innerJoin('labels as l', 'l.id', 'x.label_id')
      .select(labelColumns)
      .select('x.manifest_id as manifestId')
      .where('x.manifest_id', '=', sql<number>`ANY(${ids}::bigint[])`)
      .where('l.deleted_at', 'is', null)
      .orderBy('l.id')
      .execute()
    return Map.groupBy(rows, (row) => row.manifestId)
  }

  async function complete(
    rows: readonly ArtifactRow[],
    { repositoryId, withTags, withLabels }: ArtifactParts & { readonly repositoryId: number },
  ): Promise<readonly Artifact[]> {
    const tags = withTags
      ? await tagsOf(
          repositoryId,
          rows.map(({ digest }) => digest),
        )
      : undefined
    const labels = withLabels ? await labelsOf(rows.map(({ id }) => id)) : undefined
    return rows.map((row) => ({
      id: row.id,
      digest: row.digest as Digest,
      type: row.type,
      mediaType: row.media_type,
      manifestMediaType: row.manifest_media_type,
      artifactType: row.artifact_type ?? undefined,
      size: row.size,
      pushedAt: row.pushed_at,
      pulledAt: row.pulled_at ?? undefined,
      tags: (tags?.get(row.digest) ?? []).map((tag) => ({
        id: tag.id,
        name: tag.name,
        pushedAt: tag.pushed_at,
        pulledAt: tag.pulled_at ?? undefined,
      })),
      labels: (labels?.get(row.id) ?? []).map(readLabel),
    }))
  }

  return {
    /**
     * One page of the artifacts, newest first unless sorted otherwise, and how many there are.
     * @throws ApiError BAD_REQUEST for a range of tags or labels
     */
    async list(listing: ArtifactListing): Promise<{
      readonly rows: readonly Artifact[]
      readonly total: number
    }> {
      const { repositoryId, filters, sorts, page } = listing
      const place = sql<number>`${repositoryId}::integer`
      const all = select(repositoryId).where(isArtifact(place))
      const isSpecial = ({ column }: Filter) => Object.hasOwn(artifactFilterFields, column)
      const plain = filters.filter((filter) => !isSpecial(filter))
      const query = filters
        .filter(isSpecial)
        .reduce(
          (narrowed, filter) => narrowed.where(specialConditionOf(filter, place)),
          applyFilters(all, plain),
        )
      const { rows, total } = await readPage(query, {
        sorts,
        page,
        last: { column: 'a.id', descending: true },
        select: (sorted) => sorted.select(columns),
      })
      return { rows: await complete(rows, listing), total }
    },

    /** Any manifest of the repository, by its digest or a tag on it. */
    async get(
      repositoryId: number,
      reference: Reference,
      parts: ArtifactParts,
    ): Promise<Artifact | undefined> {
      const query = select(repositoryId).select(columns)
      const row = await (
        reference.kind === 'digest'
          ? query.where('a.digest', '=', reference.digest)
          : query.where(tagged(sql`${repositoryId}::integer`, sql`t.name = ${reference.tag}::text`))
      ).executeTakeFirst()
      return row && (await complete([row], { ...parts, repositoryId }))[0]
    },
  }
}

interface ArtifactRow {
  readonly id: number
  readonly digest: string
  readonly type: string
  readonly media_type: string
  readonly manifest_media_type: string
  readonly artifact_type: string | null
  readonly size: number
  readonly pushed_at: Date
  readonly pulled_at: Date | null
}

/**
 * Whether a tag is on a manifest (`a`) of that repository.
 * @param repositoryId comes from outside the query over manifests: for `a.repository_id` PostgreSQL may look at the
 *   tags of all repositories, once
 */
function tagged(
  repositoryId: Expression<number>,
  condition: Expression<unknown> = sql`true`,
): Expression<SqlBool> {
  return sql<SqlBool>`EXISTS (SELECT 1 FROM tags t
    WHERE t.repository_id = ${repositoryId} AND t.digest = a.digest AND t.deleted_at IS NULL AND ${condition})`
}

/**
 * Whether a manifest (`a`) is an artifact of its own, as Harbor lists and counts them: neither what only an index
 * names, nor what is attached to another artifact.
 * @param repositoryId as for `tagged`
 */
export function isArtifact(repositoryId: Expression<number>): Expression<SqlBool> {
  return sql<SqlBool>`(a.subject IS NULL AND (${tagged(repositoryId)}
    OR NOT EXISTS (SELECT 1 FROM manifest_children c JOIN manifests i ON i.id = c.manifest_id
      WHERE c.digest = a.digest AND c.kind = 'manifest'
        AND i.repository_id = ${repositoryId} AND i.deleted_at IS NULL)))`
}

/** What has a name of its own. [harbor src/controller/artifact/processor] */
const types: Readonly<Record<string, string>> = {
  'application/vnd.oci.image.config.v1+json': 'IMAGE',
  'application/vnd.docker.container.image.v1+json': 'IMAGE',
  [mediaTypes.ociIndex]: 'IMAGE',
  [mediaTypes.dockerIndex]: 'IMAGE',
  'application/vnd.cncf.helm.config.v1+json': 'CHART',
  'application/vnd.cnab.manifest.v1': 'CNAB',
  'application/vnd.cncf.model.config.v1+json': 'CNAI',
  'application/vnd.wasm.config.v1+json': 'WASM',
  'application/vnd.goharbor.harbor.sbom.v1': 'SBOM',
}
/** For all else the word in its media type. [harbor src/controller/artifact/processor/default.go] */
const typeGrammar = '^application/vnd\\.[^.]*\\.(.*)\\.config\\.[^.]*\\+json$'

/** Who pushes may write megabytes where a media type belongs; a real one has 255 characters. [RFC 6838 §4.2] */
const mediaType = sql<string>`left(coalesce(a.config_media_type, a.media_type), 255)`
const artifactType = sql<string | null>`left(a.artifact_type, 255)`
/** Of a manifest (`a`) in Harbor's words. */
export const typeColumn = sql<string>`coalesce(${JSON.stringify(types)}::jsonb ->> ${mediaType},
  upper(substring(${mediaType} from ${typeGrammar}::text)), 'UNKNOWN')`

/**
 * A manifest that an index names counts with what it names itself. Descriptors of what was never pushed may claim
 * any size: no sum is larger than what a number holds.
 */
export const sizeColumn = sql<number>`least(${Number.MAX_SAFE_INTEGER}::numeric, a.size + (
  SELECT coalesce(sum(c.size + CASE WHEN c.kind = 'manifest' THEN coalesce((
    SELECT sum(g.size) FROM manifests m JOIN manifest_children g ON g.manifest_id = m.id
    WHERE m.repository_id = a.repository_id AND m.digest = c.digest AND m.deleted_at IS NULL), 0) ELSE 0 END), 0)
  FROM manifest_children c WHERE c.manifest_id = a.id))::bigint`

const columns = [
  'a.id',
  'a.digest',
  'a.media_type as manifest_media_type',
  'a.pushed_at',
  'a.pulled_at',
  mediaType.as('media_type'),
  artifactType.as('artifact_type'),
  typeColumn.as('type'),
  sizeColumn.as('size'),
] as const

/** The condition of a filter by one of `artifactFilterFields`. */
function specialConditionOf(filter: Filter, repositoryId: Expression<number>): Expression<SqlBool> {
  switch (filter.column) {
    case 'type':
      return conditionOf(filter, typeColumn)
    case 'media_type':
      return conditionOf(filter, mediaType)
    case 'tags':
      return tagCondition(filter, repositoryId)
    default:
      return labelCondition(filter)
  }
}

/** An artifact has many tags: all of several names are looked for one by one. [harbor src/pkg/artifact/dao/dao.go] */
function tagCondition(filter: Filter, repositoryId: Expression<number>): Expression<SqlBool> {
  const ofTag = (one: Filter) => tagged(repositoryId, conditionOf(one, sql.ref('t.name')))
  switch (filter.kind) {
    case 'exact':
      if (filter.value === '*') return tagged(repositoryId)
      return filter.value === 'nil' ? sql<SqlBool>`NOT ${tagged(repositoryId)}` : ofTag(filter)
    case 'all':
      return sql<SqlBool>`(${sql.join(
        filter.values.map((value) => ofTag({ kind: 'exact', column: filter.column, value })),
        sql` AND `,
      )})`
    case 'range':
      throw new ApiError('BAD_REQUEST', 'tags cannot be matched by a range')
    default:
      return ofTag(filter)
  }
}

function labelCondition(filter: Filter): Expression<SqlBool> {
  switch (filter.kind) {
    case 'exact':
      return labelled([filter.value], { atLeast: 1 })
    case 'any':
      return labelled(filter.values, { atLeast: 1 })
    case 'all':
      return labelled(filter.values, { atLeast: new Set(filter.values).size })
    default:
      throw new ApiError('BAD_REQUEST', 'labels are matched by their ids: labels=(1 2)')
  }
}

function labelled(
  ids: readonly unknown[],
  { atLeast }: { readonly atLeast: number },
): Expression<SqlBool> {
  return sql<SqlBool>`(SELECT count(*) FROM artifact_labels x JOIN labels l ON l.id = x.label_id
    WHERE x.manifest_id = a.id AND l.deleted_at IS NULL AND l.id = ANY(${ids}::bigint[])) >= ${atLeast}`
}
