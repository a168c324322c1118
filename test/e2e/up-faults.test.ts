import assert from 'node:assert/strict'
import { rm } from 'node:fs/promises'
import { request as sendRequest } from 'node:http'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { startProgram } from '../deploy/program.ts'
import { assertThere, pushForever } from '../kit/acknowledged.ts'
import { waitFor } from '../kit/clock.ts'
import { blobsOf, bytesOf, contentOf, createImage, pushImage, type Image } from '../kit/images.ts'
import {
  addColdBlob,
  againPerKill,
  assertPulls,
  pullUntilKilled,
} from '../kit/interrupted-pulls.ts'
import { createRandom } from '../kit/random.ts'
import type { RegistryClient } from '../kit/registry-client.ts'
import { tempFolder } from '../kit/temp.ts'
import { processesIn, startTestUp, type TestUp } from '../kit/up.ts'
import { startUpstream, type Upstream } from '../kit/upstream.ts'

// The whole house in real processes, which are killed one after another.

const repository = 'library/faults'
const mebibyte = 1024 * 1024
/** The aim is 3 s; this is for a machine that has other things to do. */
const startLimitMs = 20_000

async function pushed(up: TestUp, tag: string): Promise<Image> {
  const image = createImage({ seed: `${up.data} ${tag}`, layers: 3, layerBytes: 200_000 })
  await pushImage(up.client('primary', up.admin), repository, image, tag)
  return image
}

/** By digest and tag, at the primary and through the edge, which has to fetch what it never saw. */
async function assertPullable(up: TestUp, images: ReadonlyMap<string, Image>): Promise<void> {
  for (const where of ['primary', 'edge'] as const) {
    const client = up.client(where, up.admin, 'bearer')
    for (const [tag, image] of images) {
      await assertThere(client, repository, {
        blobs: blobsOf(image),
        manifests: [{ content: image.manifest, tag }],
      })
    }
  }
}

/** An upload session, its first bytes acknowledged. */
async function openSession(client: RegistryClient, bytes: Buffer): Promise<string> {
  const opened = await client.request('POST', `/v2/${repository}/blobs/uploads/`)
  assert.equal(opened.status, 202)
  const path = pathOf(opened.headers.location)
  const patched = await client.request('PATCH', path, { body: bytes })
  assert.equal(patched.status, 202)
  return pathOf(patched.headers.location)
}

function pathOf(location: string | undefined): string {
  const url = new URL(location ?? '', 'http://127.0.0.1')
  return url.pathname + url.search
}

/** Sends some bytes of a PATCH and never its end. */
async function patchWithoutEnd(up: TestUp, path: string, bytes: Buffer): Promise<void> {
  const basic = Buffer.from(`${up.admin.username}:${up.admin.password}`).toString('base64')
  const outgoing = sendRequest(new URL(path, up.urls.primary), {
    method: 'PATCH',
    headers: { Authorization: `Basic ${basic}`, 'Content-Type': 'application/octet-stream' },
  })
  // It ends with the process that is killed.
  outgoing.on('error', () => undefined)
  await new Promise<void>((written) => outgoing.write(bytes, () => written()))
  await delay(50)
}

// A start of everything costs seconds: one house after another fault, each of which has to leave it whole.
test('a house whose processes are killed', { timeout: 600_000 }, async (t) => {
  const upstream = await startUpstream({ pace: 32 * mebibyte })
  t.after(() => upstream.close())
  const config = { edge: { upstreams: [{ id: 'origin', url: upstream.url.origin }] } }
  const up = await startTestUp(t, { config })
  t.diagnostic(`first start: ${Math.round(up.startMs)} ms`)
  const images = new Map<string, Image>()

  await t.test(
    'whichever process is killed, everything acknowledged is there again, an upload goes on, and a stop leaves nothing',
    (t) => killEach(t, up, images),
  )

  await t.test(
    'what was acknowledged right before a kill -9 of the primary is there, and of all of it',
    (t) => killUnderPushes(t, up),
  )

  await t.test('an edge killed in the middle of a fill goes on with what it has', (t) =>
    killFilling(t, up, upstream),
  )

  await t.test(
    'all processes killed at once: the next start has everything, and rebuilds a lost index',
    (t) => killAll(t, up, { upstream, images }),
  )

  await t.test(
    'a stop right after the kill of the primary ends its database server, too',
    async () => {
      up.kill('primary')
      // 1 where the stop was there first: then a child did not end well.
      assert.ok([0, 1].includes(Number(await up.stop('SIGINT'))), up.output())
      assert.deepEqual(processesIn(up.data), [])
    },
  )

  await t.test(
    'a primary that is killed until it is given up leaves no database server',
    async () => {
      await up.start()
      for (let kill = 1; kill < 5; kill++) {
        const killed = up.pidOf('primary')
        up.kill('primary')
        // The first ones die young.
        if (kill < 4) await up.untilAnother('primary', killed)
        else await up.untilBack('primary', killed)
      }
      up.kill('primary')
      assert.equal(await up.ended(), 1)
      assert.deepEqual(processesIn(up.data), [])
    },
  )
})

async function killEach(t: TestContext, up: TestUp, images: Map<string, Image>): Promise<void> {
  const blob = contentOf(bytesOf('session', 700_000))
  const acknowledged = 300_000
  const session = await openSession(
    up.client('primary', up.admin),
    blob.bytes.subarray(0, acknowledged),
  )

  for (const name of ['edge', 'primary', 'postgres'] as const) {
    images.set(name, await pushed(up, name))
    if (name === 'primary')
      await patchWithoutEnd(up, session, blob.bytes.subarray(acknowledged, 400_000))
    const killed = up.pidOf(name)
    up.kill(name)
    const ms = await up.untilBack(name, killed)
    t.diagnostic(`ready after the kill of ${name}: ${Math.round(ms)} ms`)
    assert.ok(ms < startLimitMs, `${name}: ${ms} ms`)
    await assertPullable(up, images)
  }

  const client = up.client('primary', up.admin)
  const state = await client.request('GET', session)
  assert.equal(state.status, 204)
  const held = Number(/^0-(\d+)$/.exec(state.headers.range ?? '')?.[1]) + 1
  t.diagnostic(`the upload goes on at ${held}`)
  assert.ok(held >= acknowledged && held <= 400_000)

  images.set('up', await pushed(up, 'up'))
  up.kill('up')
  await up.ended()
  await up.start()
  t.diagnostic(`start after the kill of up: ${Math.round(up.startMs)} ms`)
  assert.ok(up.startMs < startLimitMs, `${up.startMs} ms`)
  await assertPullable(up, images)

  const rest = await client.request('PATCH', session, {
    body: blob.bytes.subarray(held),
    headers: { 'Content-Range': `${held}-${blob.bytes.length - 1}` },
  })
  assert.equal(rest.status, 202)
  const put = await client.request('PUT', pathOf(rest.headers.location), {
    query: { digest: blob.digest },
  })
  assert.equal(put.status, 201)
  await assertThere(client, repository, { blobs: [blob], manifests: [] })

  assert.ok(processesIn(up.data).length >= 4)
  assert.equal(await up.stop('SIGTERM'), 0)
  assert.deepEqual(processesIn(up.data), [])
  await up.start()
  t.diagnostic(`start after a stop: ${Math.round(up.startMs)} ms`)
  assert.ok(up.startMs < startLimitMs)
  await assertPullable(up, images)
}

async function killUnderPushes(t: TestContext, up: TestUp): Promise<void> {
  const seed = 20_261_124
  const random = createRandom(seed)
  const clients = Array.from({ length: 4 }, () => up.client('primary', up.admin))
  const pushes = pushForever({ repository, seed, clients })
  const reader = up.client('primary', up.admin)
  let checked = 0
  const times: number[] = []
  try {
    // Sixty of them are in the soak.
    for (let kill = 0; kill < 2; kill++) {
      const before = pushes.blobs.length
      await waitFor('pushes to go on', () => pushes.blobs.length > before + 4)
      await delay(random.between(0, 150))
      const killed = up.pidOf('primary')
      up.kill('primary')
      if (kill === 1) {
        up.kill('up')
        await up.ended()
        await up.start()
        times.push(up.startMs)
      } else times.push(await up.untilBack('primary', killed))
      const blobs = pushes.blobs.slice(checked)
      checked += blobs.length
      await assertThere(reader, repository, { blobs, manifests: [] })
    }
  } finally {
    await pushes.stop()
  }
  t.diagnostic(
    `${pushes.blobs.length} blobs and ${pushes.manifests.length} manifests; back after ${times.map((ms) => Math.round(ms)).join(', ')} ms`,
  )
  await assertThere(reader, repository, pushes)
  const edge = up.client('edge', up.admin, 'bearer')
  await assertThere(edge, repository, {
    blobs: pushes.blobs.slice(-20),
    manifests: pushes.manifests.slice(-20),
  })
}

const filledBytes = 64 * mebibyte

async function killFilling(t: TestContext, up: TestUp, upstream: Upstream): Promise<void> {
  const random = createRandom(20_261_128)
  const cold = addColdBlob(upstream, 'first', filledBytes)
  const sent = () => upstream.delivered(cold.blob.digest).bytes
  for (let kill = 0; kill < 2; kill++) {
    // So much that a fill that began anew would be seen by the bytes that the upstream sends.
    const afterBytes = random.between(18 * mebibyte, 28 * mebibyte)
    const killed = up.pidOf('edge')
    await pullUntilKilled(up, upstream, cold, { afterBytes, kill: () => up.kill('edge') })
    const ms = await up.untilBack('edge', killed)
    t.diagnostic(`killed after ${sent()} bytes; ready after ${Math.round(ms)} ms`)
  }
  await assertPulls(up, cold)
  const again = sent() - filledBytes
  t.diagnostic(`sent again after two kills: ${again} bytes`)
  assert.ok(again <= 2 * againPerKill, `${again} bytes were sent again`)
}

async function killAll(
  t: TestContext,
  up: TestUp,
  {
    upstream,
    images,
  }: { readonly upstream: Upstream; readonly images: ReadonlyMap<string, Image> },
): Promise<void> {
  const sent = (blob: { readonly digest: string }) => upstream.delivered(blob.digest).bytes
  const held = addColdBlob(upstream, 'held', mebibyte)
  await assertPulls(up, held)
  const filling = addColdBlob(upstream, 'filling', filledBytes)
  const last = new Map([...images, ['all', await pushed(up, 'all')]])
  const kill = async () => t.diagnostic(`${await up.killAll()} processes`)
  await pullUntilKilled(up, upstream, filling, { afterBytes: 20 * mebibyte, kill })
  await rm(join(up.data, 'edge/index'), { recursive: true })
  const before = { held: sent(held.blob), filling: sent(filling.blob) }
  await up.start()
  t.diagnostic(`start after the kill of all: ${Math.round(up.startMs)} ms`)
  assert.ok(up.startMs < startLimitMs)
  await assertPullable(up, last)
  await assertPulls(up, held)
  assert.equal(sent(held.blob), before.held, 'a blob that was on disk was fetched again')
  await assertPulls(up, filling)
  // Without its record a part is worth nothing: its bytes may be holes.
  assert.equal(sent(filling.blob), before.filling + filledBytes)
}

test('a first start that is killed or stopped half-way holds nobody up', async (t) => {
  const folder = await tempFolder(t)
  for (const signal of ['SIGKILL', 'SIGINT'] as const) {
    // One each: what a killed start leaves may go on to a whole cluster, and the next one then needs no initdb.
    const data = join(folder, signal)
    const args = ['up', '--json', '--data', data, '--primary-port', '0', '--edge-port', '0']
    const begin = () => startProgram(t, ['deploy/launch.mjs', ...args, '--mirror-port', '0'])
    const up = begin()
    await waitFor(
      'an initdb',
      () => processesIn(data).some(({ cmdline }) => cmdline.includes('initdb')),
      { timeoutMs: 60_000 },
    )
    up.child.kill(signal)
    assert.equal(await up.ended(), signal === 'SIGINT' ? 0 : signal)
    if (signal === 'SIGINT') assert.deepEqual(processesIn(data), [])
    const next = begin()
    await waitFor('all to be ready', () => next.stdout().includes('\n'), { timeoutMs: 60_000 })
    next.child.kill('SIGTERM')
    assert.equal(await next.ended(), 0)
    assert.deepEqual(processesIn(data), [])
  }
})
