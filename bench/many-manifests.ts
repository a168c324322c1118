import { join } from 'node:path'
import { sql } from 'kysely'
import type { Records } from '../primary/store/database.ts'
import { parseRepositoryName, type RepositoryName } from '../shared/oci/reference.ts'
import { createAsker } from './ask.ts'
import type { BenchContext } from './bench.ts'
import { openRecordsOf, startOutport, type Outport } from './outport.ts'
import { createRegistryClient } from './registry.ts'
import { median, percentile, ratioFigure, type BenchResult } from './report.ts'

const counts = { few: 5000, many: 500_000 }
const repositories = 10
const tagsPerPage = 100
/** Of a round; no tag is asked for twice, so that no memory answers, however few there are. */
const asked = { tags: 600, lists: 200 }
const deadlineMs = 30_000
const project = 'library'

/** A tag that is there. */
interface KnownTag {
  readonly repository: RepositoryName
  readonly tag: string
}

/** A primary with its manifests. */
interface Side {
  readonly outport: Outport
  /** In a random order; who asks for one takes it away. */
  readonly tags: KnownTag[]
}

/** What a round took: milliseconds, each the median of its requests. */
interface Medians {
  readonly tag: number
  readonly list: number
}

/** Two primaries, one with a hundred times the manifests of the other, asked in turn. */
export async function measureManifests({
  folder,
  rounds,
  say,
}: BenchContext): Promise<BenchResult> {
  const outports: Outport[] = []
  const start = async (count: number): Promise<Side> => {
    const home = join(folder, `manifests-${count}`)
    const outport = await startOutport({ folder: home })
    outports.push(outport)
    say(`putting ${count} manifests in place`)
    const tags = await fill(home, {
      count,
      wanted: (rounds + 1) * (asked.tags + asked.lists),
    })
    return { outport, tags }
  }
  try {
    const few = await start(counts.few)
    const many = await start(counts.many)
    const samples: { few: Medians; many: Medians }[] = []
    for (let round = 0; round <= rounds; round++) {
      say(`round ${round}`)
      // Each round begins with the other.
      const order = round % 2 === 0 ? [few, many] : [many, few]
      const medians = new Map<Side, Medians>()
      for (const side of order) medians.set(side, await ask(side))
      const [ofFew, ofMany] = [medians.get(few), medians.get(many)]
      // The first one warms up.
      if (round > 0 && ofFew && ofMany) samples.push({ few: ofFew, many: ofMany })
    }
    const figureOf = (what: keyof Medians, measure: string) =>
      ratioFigure(
        samples.map((sample) => sample.many[what] / sample.few[what]),
        {
          case: `${counts.many} manifests`,
          measure: `${measure}, p50, × with ${counts.few}`,
          floor: 1.5,
          aim: 1.1,
          most: true,
          notes: `${median(samples.map(({ many: each }) => each[what])).toFixed(2)} and ${median(samples.map(({ few: each }) => each[what])).toFixed(2)} ms`,
        },
      )
    return { figures: [figureOf('tag', 'GET of a tag'), figureOf('list', 'list of tags')] }
  } finally {
    for (const outport of outports) await outport.stop()
  }
}

interface FillOrder {
  readonly count: number
  /** How many of the tags to tell. */
  readonly wanted: number
}

/** Fills the embedded database behind its primary's back: by pushes it would take hours. */
async function fill(home: string, order: FillOrder): Promise<KnownTag[]> {
  const database = await openRecordsOf(join(home, 'data'), { poolSize: 4 })
  try {
    await insert(database.records, order.count / repositories)
    return await chooseTags(database.records, order.wanted)
  } finally {
    await database.close()
  }
}

const manifestType = 'application/vnd.oci.image.manifest.v1+json'
const configType = 'application/vnd.oci.image.config.v1+json'
const layerType = 'application/vnd.oci.image.layer.v1.tar+gzip'

/** Every manifest is another one, names a config and a layer of its own, and has a tag. */
async function insert(records: Records, perRepository: number): Promise<void> {
  await sql`
    INSERT INTO repositories (project_id, name)
    SELECT id, ${project} || '/many-' || n
    FROM projects, generate_series(1, ${repositories}::int) n
    WHERE name = ${project} AND deleted_at IS NULL`.execute(records)
  const descriptor = (type: string, blob: string) =>
    sql`'{"mediaType":"' || ${type}::text || '","digest":"' || ${sql.raw(blob)} || '","size":1048576}'`
  await sql`
    INSERT INTO manifests (repository_id, digest, media_type, size, content, config_media_type)
    SELECT id, 'sha256:' || encode(sha256(content), 'hex'), ${manifestType}, length(content), content, ${configType}
    FROM (
      SELECT id, convert_to(
        '{"schemaVersion":2,"mediaType":"' || ${manifestType}::text ||
        '","config":' || ${descriptor(configType, 'config')} ||
        ',"layers":[' || ${descriptor(layerType, 'layer')} || ']}', 'UTF8') AS content
      FROM (
        SELECT id,
          'sha256:' || encode(sha256(convert_to('config ' || id || ' ' || n, 'UTF8')), 'hex') AS config,
          'sha256:' || encode(sha256(convert_to('layer ' || id || ' ' || n, 'UTF8')), 'hex') AS layer
        FROM repositories, generate_series(1, ${perRepository}::int) n
        WHERE name LIKE ${`${project}/many-%`}
      ) AS blobs
    ) AS contents`.execute(records)
  await sql`
    INSERT INTO manifest_children (manifest_id, position, kind, digest, size, media_type)
    SELECT id, position, kind, digest, 1048576, type
    FROM (
      SELECT id, 0 AS position, 'config' AS kind, ${configType}::text AS type,
        convert_from(content, 'UTF8')::json -> 'config' ->> 'digest' AS digest
      FROM manifests
      UNION ALL
      SELECT id, 1, 'layer', ${layerType}::text,
        convert_from(content, 'UTF8')::json -> 'layers' -> 0 ->> 'digest'
      FROM manifests
    ) AS children`.execute(records)
  await sql`
    INSERT INTO tags (repository_id, name, digest)
    SELECT repository_id, 'v' || substr(digest, 8, 16), digest FROM manifests`.execute(records)
  // As it is when pushes have come over months.
  for (const table of ['repositories', 'manifests', 'manifest_children', 'tags'])
    await sql`VACUUM (ANALYZE) ${sql.table(table)}`.execute(records)
  await sql`CHECKPOINT`.execute(records)
}

async function chooseTags(records: Records, wanted: number): Promise<KnownTag[]> {
  const { rows } = await sql<{ repository: string; tag: string }>`
    SELECT repositories.name AS repository, tags.name AS tag
    FROM tags JOIN repositories ON repositories.id = tags.repository_id
    ORDER BY random() LIMIT ${wanted}`.execute(records)
  if (rows.length < wanted) throw new Error(`there are ${rows.length} tags, not ${wanted}`)
  return rows.map(({ repository, tag }) => ({ repository: parseRepositoryName(repository), tag }))
}

/** One request after another: what a single client waits. */
async function ask({ outport, tags }: Side): Promise<Medians> {
  const asker = createAsker(outport.primary.origin, { deadlineMs })
  const tokens = new Map<RepositoryName, string | undefined>()
  const next = async (): Promise<KnownTag & { authorization: string | undefined }> => {
    const known = tags.pop()
    if (known === undefined) throw new Error('no tag is left')
    const { repository } = known
    if (!tokens.has(repository)) {
      const registry = createRegistryClient(outport.primary, { repository })
      tokens.set(repository, await registry.authorize('pull'))
    }
    return { ...known, authorization: tokens.get(repository) }
  }
  const timesOf = async (count: number, pathOf: (tag: KnownTag) => string): Promise<number[]> => {
    const times: number[] = []
    while (times.length < count) {
      const { authorization, ...known } = await next()
      const startedAt = performance.now()
      const answer = await asker.ask(pathOf(known), { authorization })
      times.push(performance.now() - startedAt)
      if (answer?.status !== 200)
        throw new Error(`${pathOf(known)} answered ${answer?.status ?? 'nothing'}`)
    }
    return times
  }
  try {
    const gets = await timesOf(
      asked.tags,
      ({ repository, tag }) => `/v2/${repository}/manifests/${tag}`,
    )
    const lists = await timesOf(
      asked.lists,
      ({ repository, tag }) => `/v2/${repository}/tags/list?n=${tagsPerPage}&last=${tag}`,
    )
    return { tag: percentile(gets, 0.5), list: percentile(lists, 0.5) }
  } finally {
    asker.close()
  }
}
