import assert from 'node:assert/strict'
import { test } from 'node:test'
import { waitFor } from '../kit/clock.ts'
import { killNetwork } from '../kit/network-kills.ts'
import { chooseSeed } from '../kit/random.ts'
import { startConsulAgent } from './consul.ts'
import { requireTools } from './tools.ts'

const seed = chooseSeed()

test(
  `a network says nothing untrue while its Consul is killed too, and is seen there again, OUTPORT_SEED=${seed}`,
  { timeout: 180_000 },
  async (t) => {
    if (!requireTools(t, 'consul')) return
    const consul = await startConsulAgent(t)
    await killNetwork(t, { edges: 2, kills: 5, seed, consul })
    const passing = (service: string) =>
      consul.call('GET', `/v1/health/service/${service}?passing=1`) as Promise<readonly unknown[]>
    await waitFor('both edges and the primary in Consul', async () => {
      const [edges, primaries] = [await passing('outport-edge'), await passing('outport-primary')]
      assert.ok(edges.length <= 2 && primaries.length <= 1)
      return edges.length === 2 && primaries.length === 1
    })
  },
)
