import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { test } from 'node:test'
import fc from 'fast-check'
import { parseDigest, type Digest } from '../../../shared/oci/digest.ts'
import { createHomes, type HomeMember } from '../../../shared/site/home.ts'

const digestOf = (text: string): Digest =>
  parseDigest(`sha256:${createHash('sha256').update(text).digest('hex')}`)
const digests = Array.from({ length: 2000 }, (_none, index) => digestOf(`blob ${index}`))
const named = (...ids: readonly string[]): HomeMember[] => ids.map((id) => ({ id }))
const idsOf = (members: readonly HomeMember[]) => members.map(({ id }) => id).join(' ')

const someIds = fc.uniqueArray(fc.stringMatching(/^[a-z][a-z0-9]{0,8}$/), {
  minLength: 2,
  maxLength: 12,
})

test('these are the homes for ever: edges of other versions count on them', () => {
  const homes = createHomes(named('edge-a', 'edge-b', 'edge-c', 'edge-d'))
  const seen = [
    idsOf(homes.rank({ digest: digestOf('one') })),
    idsOf(homes.rank({ digest: digestOf('two') })),
    idsOf(homes.rank({ digest: digestOf('two'), piece: 0 })),
    idsOf(homes.rank({ digest: digestOf('two'), piece: 1 })),
  ]
  assert.deepEqual(seen, [
    'edge-a edge-d edge-b edge-c',
    'edge-d edge-b edge-c edge-a',
    'edge-b edge-d edge-c edge-a',
    'edge-c edge-b edge-a edge-d',
  ])
})

test('the order of the members changes nothing, and the home is the first of the ranking', () => {
  fc.assert(
    fc.property(
      someIds,
      fc.nat(1999),
      fc.option(fc.nat(10_000), { nil: undefined }),
      (ids, at, piece) => {
        const key = { digest: digests[at] ?? digestOf(''), piece }
        const rank = createHomes(named(...ids)).rank(key)
        assert.deepEqual([...rank].map(({ id }) => id).sort(), [...ids].sort())
        assert.equal(idsOf(createHomes(named(...ids.toReversed())).rank(key)), idsOf(rank))
        assert.deepEqual(createHomes(named(...ids)).home(key), rank[0])
      },
    ),
  )
})

test('a member that goes takes only what was its own; the others keep their order', () => {
  fc.assert(
    fc.property(someIds, fc.nat(1990), (ids, from) => {
      const [gone = '', ...others] = ids
      const [all, fewer] = [createHomes(named(...ids)), createHomes(named(...others))]
      for (const digest of digests.slice(from, from + 10)) {
        const before = all.rank({ digest }).filter(({ id }) => id !== gone)
        assert.equal(idsOf(fewer.rank({ digest })), idsOf(before))
      }
    }),
  )
})

test('everybody is home of about as much, of blobs and of the pieces of one, and what one leaves goes to all', () => {
  const ids = Array.from({ length: 10 }, (_none, index) => `edge-${index}`)
  const homes = createHomes(named(...ids))
  const counted = (keys: readonly Parameters<typeof homes.home>[0][]) => {
    const counts = new Map<string, number>(ids.map((id) => [id, 0]))
    for (const key of keys) {
      const id = homes.home(key)?.id ?? ''
      counts.set(id, (counts.get(id) ?? 0) + 1)
    }
    return [...counts.values()]
  }
  // 200 each; five standard deviations are 67.
  for (const count of counted(digests.map((digest) => ({ digest }))))
    assert.ok(Math.abs(count - 200) < 67, String(count))
  const digest = digestOf('large')
  for (const count of counted(digests.map((_one, piece) => ({ digest, piece }))))
    assert.ok(Math.abs(count - 200) < 67, String(count))
  const heirs = new Map<string, number>()
  for (const digest of digests) {
    const [first, second] = homes.rank({ digest })
    if (first?.id === 'edge-0') heirs.set(second?.id ?? '', (heirs.get(second?.id ?? '') ?? 0) + 1)
  }
  assert.equal(heirs.size, 9)
  assert.ok(Math.max(...heirs.values()) < 50)
})

test('a weight is a share, and a member that gains some takes from all and gives to none', () => {
  const share = (weight: number) => {
    const homes = createHomes([...named('a', 'b'), { id: 'c', weight }])
    return digests.filter((digest) => homes.home({ digest })?.id === 'c').length / digests.length
  }
  assert.ok(Math.abs(share(1) - 1 / 3) < 0.05)
  assert.ok(Math.abs(share(2) - 1 / 2) < 0.05)
  assert.equal(share(0), 0)
  assert.equal(share(-1), 0)
  const [light, heavy] = [1, 3].map((weight) =>
    createHomes([...named('a', 'b'), { id: 'c', weight }]),
  )
  for (const digest of digests) {
    const after = heavy?.home({ digest })?.id
    if (after !== 'c') assert.equal(light?.home({ digest })?.id, after)
  }
})

test('of no members nobody is the home, and of weightless ones still somebody', () => {
  assert.equal(createHomes([]).home({ digest: digestOf('x') }), undefined)
  const homes = createHomes([
    { id: 'a', weight: 0 },
    { id: 'b', weight: 0 },
  ])
  assert.equal(new Set(digests.map((digest) => homes.home({ digest })?.id)).size, 2)
})
