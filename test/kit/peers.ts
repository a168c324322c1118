import assert from 'node:assert/strict'
import type { TestContext } from 'node:test'
import { waitFor } from './clock.ts'
import type { TestEdge } from './edge.ts'
import { startFedStand, type FedStand } from './fed-edge.ts'
import type { Content } from './images.ts'
import type { TestPrimaryOptions } from './primary.ts'

/** An edge to start, with its site. */
export interface PlannedEdge {
  readonly site: string
  readonly scope?: readonly string[]
  /** Merged into its configuration. */
  readonly edge?: Readonly<Record<string, unknown>>
}

export interface PeerStand<Id extends string> {
  readonly stand: FedStand
  readonly edges: Readonly<Record<Id, TestEdge>>
}

/** A primary, and edges that each have a listener for other edges and know all the others. */
export async function startPeerStand<const Id extends string>(
  t: TestContext,
  planned: Readonly<Record<Id, PlannedEdge>>,
  options: TestPrimaryOptions = {},
): Promise<PeerStand<Id>> {
  const plan = Object.entries<PlannedEdge>(planned)
  const stand = await startFedStand(t, {
    ...options,
    scopes: Object.fromEntries(plan.map(([id, { scope = ['*'] }]) => [id, scope])),
  })
  const api = stand.primary.client(stand.primary.admin)
  for (const [id, { site }] of plan) {
    const answer = await api.request('PUT', `/api/v2.0/edges/${id}`, {
      body: Buffer.from(JSON.stringify({ site })),
      headers: { 'Content-Type': 'application/json' },
    })
    assert.equal(answer.status, 200)
  }
  const started = await Promise.all(
    plan.map(async ([id, { edge }]) => {
      const options = { peers: { port: 0 }, ...edge }
      return [id, await stand.startEdge(t, { id, edge: options })] as const
    }),
  )
  // Each tells where it is with its first lease, and hears of the others by the log.
  await waitFor('the roster', async () => {
    const rows = await stand.primary.records.selectFrom('edges').select('peer_url').execute()
    return rows.filter(({ peer_url }) => peer_url !== '').length === plan.length
  })
  await waitToldAll(
    stand,
    started.map(([, edge]) => edge),
  )
  return { stand, edges: Object.fromEntries(started) as Record<Id, TestEdge> }
}

/** How many blobs the primary has given since that line of its log. */
export function blobsGiven({ primaryLog }: FedStand, from: number): number {
  return primaryLog
    .slice(from)
    .filter(
      ({ method, status, route }) =>
        method === 'GET' && (status === 200 || status === 206) && route === 'blob',
    ).length
}

/** Waits until a blob that was pushed has the list of its pieces, and edges know. */
export async function waitListed(
  stand: FedStand,
  { digest }: Content,
  edges: readonly TestEdge[],
): Promise<void> {
  const { records } = stand.primary
  await waitFor('the list', async () => {
    const row = await records
      .selectFrom('blobs')
      .select('piece_list')
      .where('digest', '=', digest)
      .executeTakeFirstOrThrow()
    return row.piece_list !== null
  })
  await waitFor('all events to be numbered', async () => {
    const waiting = await records.selectFrom('outbox').select('id').execute()
    return waiting.length === 0
  })
  await waitToldAll(stand, edges)
}

/** Waits until edges know all that is numbered by now. */
async function waitToldAll({ primary }: FedStand, edges: readonly TestEdge[]): Promise<void> {
  const { seq } = await primary.records
    .selectFrom('event_head')
    .select('seq')
    .executeTakeFirstOrThrow()
  for (const edge of edges)
    await waitFor(
      `event ${seq} at the edge of ${edge.data}`,
      async () => (await edge.metric('outport_edge_log_seq')) >= seq,
    )
}
