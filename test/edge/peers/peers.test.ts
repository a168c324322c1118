import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createPeers } from '../../../edge/peers/peers.ts'
import { parseRepositoryName } from '../../../shared/oci/reference.ts'
import { waitFor } from '../../kit/clock.ts'
import { createRosterEdge } from '../../kit/roster-edge.ts'

test('of those that a busy edge names only members are asked, and not this edge itself', async (t) => {
  const roster = ['me', 'one', 'two', 'narrow', 'away'].map((edgeId) =>
    createRosterEdge({
      edgeId,
      site: edgeId === 'away' ? 'elsewhere' : 'rack',
      scope: edgeId === 'narrow' ? [7] : '*',
      peerUrl: `https://127.0.0.1:1/${edgeId}`,
    }),
  )
  const peers = createPeers({
    edgeId: 'me',
    upstream: 'primary',
    statements: {
      edge: (id) => roster.find(({ edgeId }) => edgeId === id),
      edges: () => Promise.resolve(roster),
    },
    isOpen: () => false,
    identity: () => ({ key: '', certificate: '', ca: [] }),
    waitMs: 1000,
    chooseProxy: () => undefined,
    timeouts: {},
    onBytes: () => undefined,
  })
  t.after(() => peers.close())
  peers.changed()
  await waitFor('the members', () => peers.members === 4)
  const origin = { upstream: 'primary', repository: parseRepositoryName('secret/app'), project: 1 }
  const named = peers.named(origin, ['two', 'stranger', 'me', 'away', 'narrow', '', 'one'])
  assert.deepEqual(
    named.map(({ edge }) => edge),
    ['two', 'one'],
  )
})
