import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { createNearness } from '../../../shared/site/nearness.ts'
import { chooseNearest } from '../../../shared/site/nearest.ts'

const nearness = createNearness({ now: () => 0, site: 'here' })
const at = (distances: Readonly<Record<string, number>>) =>
  Object.entries(distances).map(([id, estimateMs]) => ({ id, estimateMs }))
const choose = (
  distances: Readonly<Record<string, number>>,
  before: readonly string[] = [],
  machine = 'm',
) => chooseNearest(at(distances), before, { nearness, machine, most: 2 }).join(' ')

test('the nearest comes first, then the next', () => {
  assert.equal(choose({ far: 90, near: 5, mid: 20 }), 'near mid')
  assert.equal(choose({ only: 5 }), 'only')
  assert.equal(choose({}), '')
})

test('machines share those that are about as near, and one chooses the same each time', () => {
  const distances = Object.fromEntries(
    Array.from({ length: 10 }, (_, index) => [`e${index}`, 10 + index / 10]),
  )
  const counts = new Map<string, number>()
  for (let machine = 0; machine < 2000; machine++) {
    const chosen = choose(distances, [], `node-${machine}`)
    assert.equal(choose(distances, [], `node-${machine}`), chosen)
    const [first = ''] = chosen.split(' ')
    counts.set(first, (counts.get(first) ?? 0) + 1)
  }
  assert.equal(counts.size, 10)
  assert.ok(Math.max(...counts.values()) < 1.3 * 200, String([...counts.values()]))
})

test('who was chosen stays until somebody is much nearer; who is gone is replaced by the next', () => {
  assert.equal(choose({ a: 10, b: 19, c: 80 }, ['b', 'a']), 'b a')
  assert.equal(choose({ a: 10, b: 21, c: 80 }, ['b', 'a']), 'a b')
  assert.equal(choose({ a: 10, c: 80 }, ['b', 'a']), 'a c')
  assert.equal(choose({ b: 10, c: 11, d: 12 }, ['a', 'd']).split(' ')[0], 'd')
})

test('those of the own site come before all others, however far', () => {
  const candidates = [
    { id: 'other', estimateMs: 1, site: 'there' },
    { id: 'own', estimateMs: 30, site: 'here' },
  ]
  const chosen = chooseNearest(candidates, ['other'], { nearness, machine: 'm', most: 1 })
  assert.deepEqual(chosen, ['own'])
})

test('what is measured may shake by a tenth, and nothing changes', () => {
  const distance = fc.double({ min: 1, max: 100, noNaN: true })
  const shake = fc.double({ min: 0.9, max: 1.1, noNaN: true })
  fc.assert(
    fc.property(fc.array(fc.tuple(distance, shake), { minLength: 1, maxLength: 8 }), (edges) => {
      const first = Object.fromEntries(edges.map(([ms], index) => [`e${index}`, ms]))
      const then = Object.fromEntries(edges.map(([ms, by], index) => [`e${index}`, ms * by]))
      const chosen = choose(first)
      assert.equal(choose(then, chosen.split(' ')), chosen)
    }),
  )
})
