import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { createPrimaryKeys } from '../../../edge/access/keys.ts'
import { openCacheIndex, type CacheIndex } from '../../../edge/cache/cache-index.ts'

async function openIndex(t: TestContext): Promise<CacheIndex> {
  const root = await mkdtemp(join(tmpdir(), 'outport-keys-'))
  const index = await openCacheIndex(join(root, 'index'))
  t.after(async () => {
    await index.close()
    await rm(root, { recursive: true, force: true })
  })
  return index
}

/** A primary whose key set and health a test sets, and a clock that it moves. */
function createWorld(index: CacheIndex) {
  const world = { kids: ['a'], away: false, asked: 0, time: 0 }
  const ask = () => {
    world.asked++
    if (world.away) return Promise.reject(new Error('away'))
    const body = JSON.stringify({ keys: world.kids.map((kid) => ({ kty: 'EC', kid })) })
    return Promise.resolve({ status: 200, headers: {}, body })
  }
  const create = () => createPrimaryKeys({ ask, index, now: () => world.time })
  return { world, create }
}

const kidsOf = async (keys: ReturnType<typeof createPrimaryKeys>, kid: string) =>
  (await keys.get(kid)).keys.map((key) => key.kid)

test('the keys are asked for once, again for an unknown kid, but not for every made-up one', async (t) => {
  const { world, create } = createWorld(await openIndex(t))
  const keys = create()
  await Promise.all([kidsOf(keys, 'a'), kidsOf(keys, 'a')])
  assert.equal(world.asked, 1)
  for (let number = 0; number < 10; number++) await kidsOf(keys, `made-up-${number}`)
  assert.equal(world.asked, 1)
  world.kids = ['a', 'b']
  world.time += 6000
  assert.deepEqual(await kidsOf(keys, 'b'), ['a', 'b'])
  assert.equal(world.asked, 2)
})

test('a retired key goes within five minutes', async (t) => {
  const { world, create } = createWorld(await openIndex(t))
  const keys = create()
  await kidsOf(keys, 'a')
  world.kids = ['b']
  world.time += 300_000
  assert.deepEqual(await kidsOf(keys, 'a'), ['b'])
})

test('an edge that starts without its primary knows the keys of the last time', async (t) => {
  const { world, create } = createWorld(await openIndex(t))
  await kidsOf(create(), 'a')
  world.away = true
  const restarted = create()
  assert.deepEqual(await kidsOf(restarted, 'a'), ['a'])
  await assert.rejects(kidsOf(create(), 'unknown'), { code: 'UNAVAILABLE', status: 503 })
})
