import assert from 'node:assert/strict'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { assertThere, pushForever } from '../kit/acknowledged.ts'
import { waitFor } from '../kit/clock.ts'
import {
  addColdBlob,
  againPerKill,
  assertPulls,
  pullUntilKilled,
} from '../kit/interrupted-pulls.ts'
import { chooseSeed, createRandom } from '../kit/random.ts'
import { startTestUp } from '../kit/up.ts'
import { startUpstream } from '../kit/upstream.ts'

// `up` gives up a program that ends five times in a minute: so many kills, then a new `up`.
const killsPerStart = 4
const repository = 'library/kills'
const kills = Number(process.env['OUTPORT_KILLS'] ?? 60)
const seed = chooseSeed()

test(`${kills} kills under pushes lose nothing acknowledged, OUTPORT_SEED=${seed}`, async (t) => {
  const random = createRandom(seed)
  const up = await startTestUp(t)
  const clients = Array.from({ length: 4 }, () => up.client('primary', up.admin))
  const pushes = pushForever({ repository, seed, clients, pauseMs: 20 })
  const reader = up.client('primary', up.admin)
  let checked = 0
  try {
    for (let kill = 1; kill <= kills; kill++) {
      const before = pushes.blobs.length
      await waitFor('pushes to go on', () => pushes.blobs.length > before, { timeoutMs: 30_000 })
      await delay(random.between(0, 400))
      const name = random.pick(['primary', 'edge', 'postgres'] as const)
      if (kill % killsPerStart === 0) {
        up.kill('up')
        await up.ended()
        await up.start()
      } else {
        const killed = up.pidOf(name)
        up.kill(name)
        await up.untilBack(name, killed)
      }
      const blobs = pushes.blobs.slice(checked)
      checked += blobs.length
      await assertThere(reader, repository, { blobs, manifests: [] })
    }
  } finally {
    await pushes.stop()
  }
  t.diagnostic(`${pushes.blobs.length} blobs and ${pushes.manifests.length} manifests`)
  await assertThere(reader, repository, pushes)
  await assertThere(up.client('edge', up.admin, 'bearer'), repository, {
    blobs: pushes.blobs.slice(-100),
    manifests: pushes.manifests.slice(-100),
  })
})

test(`${kills} kills of the edge in the middle of fills, OUTPORT_SEED=${seed}`, async (t) => {
  const mebibyte = 1024 * 1024
  const sizeBytes = 64 * mebibyte
  const random = createRandom(seed)
  const upstream = await startUpstream({ pace: 32 * mebibyte })
  t.after(() => upstream.close())
  const config = { edge: { upstreams: [{ id: 'origin', url: upstream.url.origin }] } }
  const up = await startTestUp(t, { config })
  let again = 0
  for (let kill = 0; kill < kills; kill += killsPerStart) {
    const cold = addColdBlob(upstream, `${seed} ${kill}`, sizeBytes)
    const delivered = () => upstream.delivered(cold.blob.digest).bytes
    let mayRepeat = 0
    for (let each = 1; each < killsPerStart; each++) {
      const killed = up.pidOf('edge')
      const afterBytes = random.between(1, 18 * mebibyte)
      await pullUntilKilled(up, upstream, cold, { afterBytes, kill: () => up.kill('edge') })
      await up.untilBack('edge', killed)
      mayRepeat += againPerKill
    }
    // The last kill of a start takes everything, and every other time the index with it.
    const afterBytes = random.between(1, 8 * mebibyte)
    await pullUntilKilled(up, upstream, cold, { afterBytes, kill: () => up.killAll() })
    const isIndexLost = kill % (2 * killsPerStart) === 0
    if (isIndexLost) await rm(join(up.data, 'edge/index'), { recursive: true })
    mayRepeat = isIndexLost ? delivered() : mayRepeat + againPerKill
    await up.start()
    await assertPulls(up, cold)
    const repeated = delivered() - sizeBytes
    again += repeated
    assert.ok(repeated <= mayRepeat, `${repeated} bytes were sent again, not ${mayRepeat}`)
    upstream.remove('kills/app', cold.blob.digest)
  }
  t.diagnostic(`sent again: ${Math.round(again / kills / mebibyte)} MiB a kill`)
})
