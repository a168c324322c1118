import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { test, type TestContext } from 'node:test'
import type { HostsToml } from '../../shared/clients/hosts-toml.ts'
import { digestOf } from '../../shared/oci/digest.ts'
import { startUpstream } from '../kit/upstream.ts'
import {
  configPath,
  mayRunContainerd,
  registryTable,
  startContainerd,
  writeHostsToml,
  type Containerd,
} from './containerd.ts'
import { fillHub } from './hub.ts'
import { createPrivateProject, createRobot, printed, pushRandomImage } from './images.ts'
import {
  edgeName,
  primaryName,
  printedFile,
  startOutport,
  testHosts,
  type Outport,
} from './outport.ts'
import { isEdgeBlob, isPrimaryBlob, waitForRequests, type LoggedRequest } from './requests.ts'
import { requireTool } from './tools.ts'

const timeout = 180_000

/** The primary's images by way of the edge, as README says. */
function throughEdge({ scheme, primary, edge }: Outport, ca?: string): HostsToml {
  const url = `${scheme}://${edge}`
  const trusted = ca === undefined ? {} : { ca }
  const host = { url, capabilities: ['pull', 'resolve'] as const, ...trusted }
  return { server: `${scheme}://${primary}`, serverTls: trusted, hosts: [host] }
}

test('containerd 1.6 pulls through the edge by hosts.toml', { timeout }, async (t) => {
  if (!mayRunContainerd(t, '1.6')) return
  const outport = await startOutport(t)
  const image = `${outport.primary}/library/app:v1`
  await pushRandomImage(outport, image)
  const folder = await writeHostsToml(outport, outport.primary, throughEdge(outport))
  const containerd = await startContainerd(t, outport, {
    version: '1.6',
    config: configPath('1.6', folder),
  })
  printed(await containerd.crictl(['pull', image]))
  await waitForRequests(outport, (requests) => requests.some(isEdgeBlob))
  printed(await containerd.ctr(['images', 'pull', '--hosts-dir', folder, image]))
})

test(
  'containerd 1.6 pulls a private image by the legacy mirrors section, with auth and ca_file',
  { timeout },
  async (t) => {
    if (!mayRunContainerd(t, '1.6') || requireTool(t, 'curl') === undefined) return
    const outport = await startOutport(t, { tls: true })
    await createPrivateProject(outport, 'secret')
    const image = `${outport.primary}/secret/app:v1`
    await pushRandomImage(outport, image)
    const table = registryTable('1.6')
    const legacy = (tls: string) => `
[${table}.mirrors."${outport.primary}"]
  endpoint = ["https://${outport.edge}"]
[${table}.configs."${outport.edge}".tls]
  ${tls}
[${table}.configs."${outport.edge}".auth]
  username = "admin"
  password = "${outport.password}"
`
    for (const tls of [`ca_file = "${outport.ca}"`, 'insecure_skip_verify = true']) {
      const containerd = await startContainerd(t, outport, {
        version: '1.6',
        hosts: testHosts,
        config: legacy(tls),
      })
      printed(await containerd.crictl(['pull', image]))
      printed(await containerd.crictl(['rmi', image]))
      await containerd.stop()
    }
    await waitForRequests(outport, (requests) => requests.some(isEdgeBlob))
    const untrusting = await startContainerd(t, outport, {
      version: '1.6',
      hosts: { [edgeName]: '::1', [primaryName]: '127.0.0.9' },
      config: legacy(''),
    })
    const refused = await untrusting.crictl(['pull', image])
    assert.notEqual(refused.code, 0)
    // What crictl prints is about the last host, the primary, which nobody reaches here.
    const seen = await readFile(untrusting.log, 'utf8')
    assert.match(seen, new RegExp(`${outport.edge}.*x509: certificate signed by unknown authority`))
  },
)

for (const version of ['1.6', '2.4'] as const) {
  test(
    `containerd ${version} pulls docker.io images through the mirror by the hosts.toml that up prints`,
    { timeout },
    async (t) => {
      if (!mayRunContainerd(t, version)) return
      const hub = await startUpstream()
      t.after(() => hub.close())
      const outport = await startOutport(t, { dockerHub: hub.url.origin })
      const digest = await fillHub(outport, hub)
      const hosts = printedFile(outport, 'containerd, docker.io through the mirror')
      const folder = await writeHostsToml(outport, 'docker.io', hosts)
      const containerd = await startContainerd(t, outport, {
        version,
        config: configPath(version, folder),
      })
      const image = 'docker.io/library/app:v1'
      printed(await containerd.crictl(['pull', image]))
      assert.ok(printed(await containerd.ctr(['-n', 'k8s.io', 'images', 'ls'])).includes(digest))
      await waitForRequests(outport, (requests) => requests.some(isEdgeBlob))
      assert.ok(hub.delivered(digest).gets > 0)
    },
  )
}

const chunkBytes = 8 << 20
const layerBytes = 5 * chunkBytes + 12_345

/** Parallel ranges, for images that the CRI plugin pulls by itself and for those of the transfer service. */
const inRanges = ['io.containerd.cri.v1.images', 'io.containerd.transfer.v1.local']
  .map(
    (plugin) => `
[plugins."${plugin}"]
  max_concurrent_downloads = 4
  concurrent_layer_fetch_buffer = ${chunkBytes}
`,
  )
  .join('')

/** Checks what containerd keeps of an image. @returns the bytes of its blobs */
async function checkKept(containerd: Containerd, image: Buffer): Promise<number> {
  const { config, layers } = JSON.parse(image.toString()) as Record<'config', { digest: string }> &
    Record<'layers', { digest: string }[]>
  let bytes = 0
  for (const { digest } of [config, ...layers]) {
    const kept = await readFile(containerd.blobPath(digest))
    assert.equal(digestOf(kept), digest)
    bytes += kept.length
  }
  return bytes
}

/** Waits until the edge answered all ranges of the layer: one a chunk, most of them left by the client. */
async function checkRanges(outport: Outport): Promise<void> {
  const chunks = Math.ceil(layerBytes / chunkBytes)
  // The image's configuration, which is smaller than any of the chunks, is asked for by a range too.
  const ofLayer = (requests: readonly LoggedRequest[]) =>
    requests.filter((request) => isEdgeBlob(request) && request.bytes > layerBytes % chunkBytes)
  const ranges = ofLayer(await waitForRequests(outport, (all) => ofLayer(all).length >= chunks))
  const seen = JSON.stringify(ranges)
  assert.equal(ranges.length, chunks, seen)
  assert.ok(ranges.every(({ status }) => status === 206) && ranges.some(isAborted), seen)
  // Each asks for all of the rest: what the client does not read must not be sent, but for what the kernel takes.
  assert.ok(sumOf(ranges) < 2 * layerBytes, seen)
}

const isAborted = ({ aborted }: LoggedRequest) => aborted

const sumOf = (answers: readonly { readonly bytes: number }[]) =>
  answers.reduce((sum, { bytes }) => sum + bytes, 0)

/**
 * Blob bytes that were delivered must be about one copy of what is kept. Counted is what the kernel took: where the edge
 * leaves a stream because the rest is on its way already, several MiB of loopback's buffers are read by nobody.
 */
function assertOneCopy(t: TestContext, delivered: number, kept: number): void {
  const copies = delivered / kept
  t.diagnostic(`${delivered} bytes delivered for ${kept}: ${copies.toFixed(2)} copies`)
  assert.ok(copies >= 1 && copies < 1.5, `${copies} copies`)
}

test(
  'containerd 2.4 pulls a layer of docker.io in parallel ranges that it abandons; docker.io gives one copy',
  { timeout },
  async (t) => {
    if (!mayRunContainerd(t, '2.4')) return
    const hub = await startUpstream({ pace: 40 << 20 })
    t.after(() => hub.close())
    const outport = await startOutport(t, { dockerHub: hub.url.origin })
    const digest = await fillHub(outport, hub, { layerBytes })
    const hosts = printedFile(outport, 'containerd, docker.io through the mirror')
    const folder = await writeHostsToml(outport, 'docker.io', hosts)
    const containerd = await startContainerd(t, outport, {
      version: '2.4',
      config: `${inRanges}${configPath('2.4', folder)}`,
    })
    printed(await containerd.crictl(['pull', 'docker.io/library/app:v1']))
    const manifest = await readFile(containerd.blobPath(digest))
    const kept = await checkKept(containerd, manifest)
    await checkRanges(outport)
    const ofBlobs = hub.requests.filter(({ url }) => url.includes('/blobs/'))
    assertOneCopy(t, sumOf(ofBlobs), kept)
  },
)

test(
  "containerd 2.4's transfer service pulls a private layer of the primary in parallel ranges, with a robot's log-in; the primary gives one copy",
  { timeout },
  async (t) => {
    if (!mayRunContainerd(t, '2.4') || requireTool(t, 'curl') === undefined) return
    const outport = await startOutport(t)
    await createPrivateProject(outport, 'secret')
    const { username, password } = await createRobot(outport, 'secret')
    const image = `${outport.primary}/secret/big:v1`
    const digest = await pushRandomImage(outport, image, { layerBytes })
    const folder = await writeHostsToml(outport, outport.primary, throughEdge(outport))
    const containerd = await startContainerd(t, outport, { version: '2.4', config: inRanges })
    const pull = (...logIn: readonly string[]) =>
      containerd.ctr(['images', 'pull', '--hosts-dir', folder, ...logIn, image])
    const refused = await pull()
    assert.notEqual(refused.code, 0, 'a pull without a log-in')
    printed(await pull('--user', `${username}:${password}`))
    const kept = await checkKept(containerd, await readFile(containerd.blobPath(digest)))
    await checkRanges(outport)
    const ofPrimary = (requests: readonly LoggedRequest[]) => requests.filter(isPrimaryBlob)
    const requests = await waitForRequests(outport, (all) => sumOf(ofPrimary(all)) >= kept)
    assertOneCopy(t, sumOf(ofPrimary(requests)), kept)
  },
)

test(
  'containerd 2.4 pulls a private image over TLS with our CA in hosts.toml, and not without it or without a log-in',
  { timeout },
  async (t) => {
    if (!mayRunContainerd(t, '2.4') || requireTool(t, 'curl') === undefined) return
    const outport = await startOutport(t, { tls: true })
    await createPrivateProject(outport, 'secret')
    const { username, password } = await createRobot(outport, 'secret')
    const image = `${outport.primary}/secret/app:v1`
    await pushRandomImage(outport, image)
    const folder = await writeHostsToml(outport, outport.primary, throughEdge(outport))
    const containerd = await startContainerd(t, outport, {
      version: '2.4',
      hosts: testHosts,
      config: configPath('2.4', folder),
    })
    const pull = (...logIn: readonly string[]) => containerd.crictl(['pull', ...logIn, image])
    const logIn = ['--creds', `${username}:${password}`]
    assert.match((await pull(...logIn)).stderr, /x509|certificate/)
    // Read for each pull: no restart.
    await writeHostsToml(outport, outport.primary, throughEdge(outport, outport.ca))
    assert.match((await pull()).stderr, /401|unauthorized|authorization failed/i)
    printed(await pull(...logIn))
    await waitForRequests(outport, (requests) => requests.some(isEdgeBlob))
  },
)
