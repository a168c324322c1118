import assert from 'node:assert/strict'
import type { TestContext } from 'node:test'
import { waitFor } from './clock.ts'
import type { TestEdge } from './edge.ts'
import { startFedStand, type FedStand } from './fed-edge.ts'
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
  const { seq } = await stand.primary.records
    .selectFrom('event_head')
    .select('seq')
    .executeTakeFirstOrThrow()
  for (const [id, edge] of started)
    await waitFor(
      `the roster at ${id}`,
      async () => (await edge.metric('outport_edge_log_seq')) >= seq,
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
