import { join } from 'node:path'
import { createHash } from 'node:crypto'
import { RawNode, type KyselyPlugin } from 'kysely'
import { createEvents } from '../primary/store/events.ts'
import type { Records } from '../primary/store/database.ts'
import { createManifests } from '../primary/store/manifests.ts'
import { digestOf } from '../shared/oci/digest.ts'
import { parseManifest } from '../shared/oci/manifest.ts'
import { isTag, parseRepositoryName } from '../shared/oci/reference.ts'
import { waitFor } from '../test/kit/clock.ts'
import type { Bench } from './bench.ts'
import { openRecordsOf, startOutport } from './outport.ts'
import { median, ratioFigure } from './report.ts'

const clients = 32
const secondsPerSide = 4
const type = 'application/vnd.oci.image.manifest.v1+json'

/**
 * What the log costs a push: its transactions against the same ones without their events, 32 at once, while the
 * primary's relay numbers and signs what comes.
 */
export const bench: Bench = {
  name: 'outbox',
  counts: false,
  async run({ folder, rounds, say }) {
    const outport = await startOutport({ folder })
    const database = await openRecordsOf(join(folder, 'data'), { poolSize: clients })
    try {
      const { records } = database
      const sides = { with: records, without: records.withPlugin(withoutOutbox) }
      const projectId = await libraryOf(records)
      const samples: { with: number; without: number }[] = []
      for (let round = 0; round <= rounds; round++) {
        say(`round ${round}`)
        const rates = { with: 0, without: 0 }
        const order = (['with', 'without'] as const).toSorted(() => (round % 2 === 0 ? 1 : -1))
        for (const side of order) {
          rates[side] = await pushAll(sides[side], { projectId, mark: `${side} ${round}` })
          // The relay is part of the price, and of no other side's.
          await waitFor('the relay', async () => !(await createEvents(records).waiting()))
        }
        if (round > 0) samples.push(rates)
      }
      const figure = ratioFigure(
        samples.map((rates) => rates.with / rates.without),
        {
          case: `${clients} clients that push manifests`,
          measure: '× without events',
          floor: 0.9,
          notes: `${median(samples.map((rates) => rates.with)).toFixed(0)} and ${median(samples.map((rates) => rates.without)).toFixed(0)} a second`,
        },
      )
      return { figures: [figure] }
    } finally {
      await database.close()
      await outport.stop()
    }
  },
}

/** Pushes for some seconds. @returns pushes a second */
async function pushAll(
  records: Records,
  { projectId, mark }: { readonly projectId: number; readonly mark: string },
): Promise<number> {
  const manifests = createManifests(records)
  const startedAt = performance.now()
  const deadline = startedAt + secondsPerSide * 1000
  let pushed = 0
  const push = async (client: number): Promise<void> => {
    const name = parseRepositoryName(`library/client-${client}`)
    for (let n = 0; performance.now() < deadline; n++) {
      const content = Buffer.from(manifestOf(`${mark} ${client} ${n}`))
      const order = {
        place: { projectId, name },
        digest: digestOf(content),
        content,
        manifest: parseManifest(content, type),
        tags: [`v${n}`].filter(isTag),
        conditions: { ifMatch: [], ifNoneMatch: [] },
        sparse: true,
        actor: { username: 'bench', address: '127.0.0.1' },
      }
      await manifests.put(order, new Date())
      pushed++
    }
  }
  await Promise.all(Array.from({ length: clients }, (_, client) => push(client)))
  return (1000 * pushed) / (performance.now() - startedAt)
}

function manifestOf(mark: string): string {
  const hex = createHash('sha256').update(mark).digest('hex')
  const descriptor = (mediaType: string) => ({ mediaType, digest: `sha256:${hex}`, size: 1000 })
  return JSON.stringify({
    schemaVersion: 2,
    mediaType: type,
    config: descriptor('application/vnd.oci.image.config.v1+json'),
    layers: [descriptor('application/vnd.oci.image.layer.v1.tar+gzip')],
  })
}

async function libraryOf(records: Records): Promise<number> {
  const { id } = await records
    .selectFrom('projects')
    .select('id')
    .where('name', '=', 'library')
    .executeTakeFirstOrThrow()
  return id
}

const noRows = "SELECT '', '' WHERE false"

/** The same transactions without the rows of the outbox: the statement that writes them writes none. */
const withoutOutbox: KyselyPlugin = {
  transformQuery({ node }) {
    const isOutbox =
      node.kind === 'InsertQueryNode' && node.into?.table.identifier.name === 'outbox'
    return isOutbox ? { ...node, values: RawNode.createWithSql(noRows) } : node
  },
  transformResult: ({ result }) => Promise.resolve(result),
}
