import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { EdgeSelector, RosterEdge } from '../../../shared/replication/events.ts'
import { parseSelector, selects } from '../../../shared/replication/selector.ts'

function edge(given: Partial<RosterEdge>): RosterEdge {
  const none = { site: '', region: '', labels: {}, scope: '*', suspended: false } as const
  return { edgeId: `id-of-${given.name ?? ''}`, name: '', ...none, ...given }
}

const edges = [
  edge({ name: 'rack-1', site: 'berlin/hall-1', region: 'eu', labels: { tier: 'gold', gpu: '' } }),
  edge({ name: 'rack-2', site: 'berlin/hall-2', region: 'eu', labels: { tier: 'silver' } }),
  edge({ name: 'shop-1', site: 'lyon', region: 'eu', labels: { tier: 'gold' }, suspended: true }),
  edge({ name: 'shop-2', site: 'austin', region: 'us' }),
]

function namesOf(selector: EdgeSelector): readonly string[] {
  const parsed = parseSelector(selector)
  return edges.filter((one) => selects(parsed, one)).map(({ name }) => name)
}

test('a selector without conditions selects every edge', () => {
  const all = ['rack-1', 'rack-2', 'shop-1', 'shop-2']
  assert.deepEqual(namesOf({}), all)
  assert.deepEqual(namesOf({ labels: {} }), all)
})

test('of each list one pattern must match', () => {
  assert.deepEqual(namesOf({ names: ['rack-*'] }), ['rack-1', 'rack-2'])
  assert.deepEqual(namesOf({ names: ['shop-2', 'rack-[2-9]'] }), ['rack-2', 'shop-2'])
  assert.deepEqual(namesOf({ sites: ['berlin/**', 'lyon'] }), ['rack-1', 'rack-2', 'shop-1'])
  assert.deepEqual(namesOf({ sites: ['*'] }), ['shop-1', 'shop-2'])
  assert.deepEqual(namesOf({ regions: ['{us,asia}'] }), ['shop-2'])
  assert.deepEqual(namesOf({ names: ['none'] }), [])
})

test('all labels must be there, each with a value that matches', () => {
  assert.deepEqual(namesOf({ labels: { tier: 'gold' } }), ['rack-1', 'shop-1'])
  assert.deepEqual(namesOf({ labels: { tier: '*', gpu: '' } }), ['rack-1'])
  assert.deepEqual(namesOf({ labels: { tier: 'gold', gpu: 'yes' } }), [])
  assert.deepEqual(namesOf({ labels: { toString: '*' } }), [])
})

test('all conditions must select an edge', () => {
  const selector = { names: ['*-1'], regions: ['eu'], labels: { tier: 'gold' } }
  assert.deepEqual(namesOf(selector), ['rack-1', 'shop-1'])
  assert.deepEqual(namesOf({ ...selector, sites: ['lyon'] }), ['shop-1'])
})

test('a suspended edge is selected like any other', () => {
  assert.deepEqual(namesOf({ names: ['shop-1'] }), ['shop-1'])
})

test('a malformed pattern and an empty list are refused by name', () => {
  const refusals: [EdgeSelector, RegExp][] = [
    [{ names: ['a', 'b['] }, /^names\[1\]: a \[ is never closed.* at character 2/],
    [{ sites: ['{'] }, /^sites\[0\]: /],
    [{ regions: ['}'] }, /^regions\[0\]: /],
    [{ labels: { tier: '\\' } }, /^labels\.tier: nothing follows/],
    [{ names: [] }, /^names is empty: leave it out/],
  ]
  for (const [selector, message] of refusals)
    assert.throws(() => parseSelector(selector), { name: 'RangeError', message })
})
