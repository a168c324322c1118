import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type AddressInfo } from 'node:net'
import { test, type TestContext } from 'node:test'
import { startTestEdge } from '../kit/edge.ts'
import { startUpstream, type Upstream } from '../kit/upstream.ts'
import { configPath, mayRunContainerd, startContainerd, writeHostsToml } from './containerd.ts'
import { fillHub } from './hub.ts'
import { printed } from './images.ts'
import { startOutport } from './outport.ts'
import { isEdgeManifest, waitForRequests } from './requests.ts'

const timeout = 180_000

/** From the client's start to its first request to the next host; most of it is the client's own. */
const fallThroughMs = 2000

/** A URL at which nobody listens. */
async function nobody(): Promise<string> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return `http://127.0.0.1:${port}`
}

/** The mirror of an edge that has docker.io from somewhere else. */
async function mirrorOf(t: TestContext, { url }: Upstream): Promise<string> {
  const names = ['docker.io', 'registry-1.docker.io']
  const upstreams = [{ id: 'docker.io', names, url: url.origin }]
  const { mirror } = await startTestEdge(t, { edge: { upstreams, fill: { no_progress: '500ms' } } })
  return mirror.origin
}

/** Asks until the mirror has given its upstream up. */
async function tire(mirror: string): Promise<string> {
  const ask = async (_: unknown, each: number) =>
    (await fetch(`${mirror}/v2/library/app/manifests/v${each}`, { method: 'HEAD' })).status
  const statuses = await Promise.all(Array.from({ length: 5 }, ask))
  assert.ok(
    statuses.every((status) => status >= 500),
    String(statuses),
  )
  return mirror
}

async function startClosing(t: TestContext): Promise<Upstream> {
  const upstream = await startUpstream()
  t.after(() => upstream.close())
  return upstream
}

test('containerd goes on to the next host at once', { timeout }, async (t) => {
  if (!mayRunContainerd(t, '2.4')) return
  const hub = await startClosing(t)
  const outport = await startOutport(t, { dockerHub: hub.url.origin })
  await fillHub(outport, hub)
  const empty = await startClosing(t)
  const silent = await startClosing(t)
  silent.fault({}, { stallHeaders: true })
  const down = await startClosing(t)
  await down.down()
  const hosts = {
    'from one that is not there': await nobody(),
    'from an edge whose upstream has no such image: 404': await mirrorOf(t, empty),
    'from an edge whose upstream is down: 503': await mirrorOf(t, down),
    'from an edge that gave its silent upstream up: 503': await tire(await mirrorOf(t, silent)),
  }
  const mirror = `http://${outport.mirror}`
  const image = 'docker.io/library/app:v1'
  const write = (urls: readonly string[]) =>
    writeHostsToml(outport, 'docker.io', {
      server: 'https://registry-1.docker.io',
      hosts: urls.map((url) => ({ url, capabilities: ['pull', 'resolve'] })),
    })
  const containerd = await startContainerd(t, outport, {
    version: '2.4',
    config: configPath('2.4', await write([])),
  })
  for (const [what, url] of Object.entries(hosts)) {
    await t.test(what, async (t) => {
      await write([url, mirror])
      const start = Date.now()
      printed(await containerd.crictl(['pull', image]))
      const pullMs = Date.now() - start
      const isNext = ({ endedAt, ms }: { endedAt: number; ms: number }) => endedAt - ms > start
      const requests = await waitForRequests(outport, (all) =>
        all.some((request) => isEdgeManifest(request) && isNext(request)),
      )
      const [first] = requests.filter((request) => isEdgeManifest(request) && isNext(request))
      assert.ok(first)
      const tookMs = Math.round(first.endedAt - first.ms - start)
      t.diagnostic(`next host after ${tookMs} ms, pulled after ${pullMs} ms`)
      assert.ok(tookMs < fallThroughMs, `${tookMs} ms`)
      printed(await containerd.crictl(['rmi', image]))
    })
  }
})
