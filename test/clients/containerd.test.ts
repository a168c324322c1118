import assert from 'node:assert/strict'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { startUpstream } from '../kit/upstream.ts'
import { startContainerd, type Containerd, type ContainerdOptions } from './containerd.ts'
import { fillHub } from './hub.ts'
import { createPrivateProject, printed, pushRandomImage } from './images.ts'
import {
  edgeName,
  primaryName,
  printedFile,
  startOutport,
  subfolder,
  testHosts,
  waitForLog,
  type Outport,
} from './outport.ts'
import { requireRoot, requireTool } from './tools.ts'

const timeout = 180_000

function mayRun(t: TestContext, version: ContainerdOptions['version']): boolean {
  const tools = [`containerd-${version}`, `ctr-${version}`, 'crictl', 'crane']
  return tools.every((name) => requireTool(t, name) !== undefined) && requireRoot(t)
}

async function start(
  t: TestContext,
  outport: Outport,
  options: Omit<ContainerdOptions, 'dir'>,
): Promise<Containerd> {
  const dir = await subfolder(outport, `containerd-${options.version}`)
  const containerd = await startContainerd({ dir, ...options })
  t.after(() => containerd.stop())
  return containerd
}

/** Writes `certs.d/<name>/hosts.toml` that has the edge tried before `server`. */
async function writeHosts(
  outport: Outport,
  { name, server, extra = '' }: { name: string; server: string; extra?: string },
): Promise<string> {
  const folder = await subfolder(outport, 'certs.d')
  await mkdir(join(folder, name), { recursive: true })
  const host = `${outport.scheme}://${outport.edge}`
  await writeFile(
    join(folder, name, 'hosts.toml'),
    `server = "${server}"\n\n[host."${host}"]\n  capabilities = ["pull", "resolve"]\n${extra}`,
  )
  return folder
}

/**
 * Waits until the edge's log says of its blob answers what is expected.
 * @returns the status of each
 */
async function waitForBlobs(
  outport: Outport,
  isExpected: (statuses: readonly number[]) => boolean,
): Promise<readonly number[]> {
  return statusesIn(await waitForLog(outport, (text) => isExpected(statusesIn(text))))
}

function statusesIn(log: string): number[] {
  return log
    .split('\n')
    .slice(0, -1)
    .filter((line) => line.includes('"program":"edge"') && line.includes('"route":"blob"'))
    .map((line) => (JSON.parse(line) as { status: number }).status)
}

test('containerd 1.6 pulls through the edge by hosts.toml', { timeout }, async (t) => {
  if (!mayRun(t, '1.6')) return
  const outport = await startOutport(t)
  const image = `${outport.primary}/library/app:v1`
  await pushRandomImage(outport, image)
  const config_path = await writeHosts(outport, {
    name: outport.primary,
    server: `http://${outport.primary}`,
  })
  const containerd = await start(t, outport, {
    version: '1.6',
    config: `[plugins."io.containerd.grpc.v1.cri".registry]\n  config_path = "${config_path}"\n`,
  })
  printed(await containerd.crictl(['pull', image]))
  await waitForBlobs(outport, (statuses) => statuses.includes(200))
  printed(await containerd.ctr(['images', 'pull', '--hosts-dir', config_path, image]))
})

test(
  'containerd 1.6 pulls a private image by the legacy mirrors section, with auth and ca_file',
  { timeout },
  async (t) => {
    if (!mayRun(t, '1.6') || requireTool(t, 'curl') === undefined) return
    const outport = await startOutport(t, { tls: true })
    await createPrivateProject(outport, 'secret')
    const image = `${outport.primary}/secret/app:v1`
    await pushRandomImage(outport, image)
    const plugin = 'io.containerd.grpc.v1.cri'
    const legacy = (tls: string) => `
[plugins."${plugin}".registry.mirrors."${outport.primary}"]
  endpoint = ["https://${outport.edge}"]
[plugins."${plugin}".registry.configs."${outport.edge}".tls]
  ${tls}
[plugins."${plugin}".registry.configs."${outport.edge}".auth]
  username = "admin"
  password = "${outport.password}"
`
    for (const tls of [`ca_file = "${outport.ca}"`, 'insecure_skip_verify = true']) {
      const containerd = await start(t, outport, {
        version: '1.6',
        hosts: testHosts,
        config: legacy(tls),
      })
      printed(await containerd.crictl(['pull', image]))
      printed(await containerd.crictl(['rmi', image]))
      await containerd.stop()
    }
    await waitForBlobs(outport, (statuses) => statuses.includes(200))
    const untrusting = await start(t, outport, {
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
      if (!mayRun(t, version)) return
      const hub = await startUpstream()
      t.after(() => hub.close())
      const outport = await startOutport(t, { dockerHub: hub.url.origin })
      const digest = await fillHub(outport, hub)
      const folder = await subfolder(outport, 'certs.d')
      await mkdir(join(folder, 'docker.io'))
      const hosts = printedFile(outport, 'containerd, docker.io through the mirror')
      await writeFile(join(folder, 'docker.io', 'hosts.toml'), hosts)
      const plugin = version === '1.6' ? 'io.containerd.grpc.v1.cri' : 'io.containerd.cri.v1.images'
      const containerd = await start(t, outport, {
        version,
        config: `[plugins."${plugin}".registry]\n  config_path = "${folder}"\n`,
      })
      const image = 'docker.io/library/app:v1'
      printed(await containerd.crictl(['pull', image]))
      assert.ok(printed(await containerd.ctr(['-n', 'k8s.io', 'images', 'ls'])).includes(digest))
      await waitForBlobs(outport, (statuses) => statuses.includes(200))
      assert.ok(hub.delivered(digest).gets > 0)
    },
  )
}

test('containerd 2.4 pulls through the edge in parallel ranges', { timeout }, async (t) => {
  if (!mayRun(t, '2.4')) return
  const outport = await startOutport(t)
  const image = `${outport.primary}/library/big:v1`
  await pushRandomImage(outport, image, { layerBytes: 40 << 20 })
  const config_path = await writeHosts(outport, {
    name: outport.primary,
    server: `http://${outport.primary}`,
  })
  const ranges = 'max_concurrent_downloads = 3\n  concurrent_layer_fetch_buffer = 8388608'
  const containerd = await start(t, outport, {
    version: '2.4',
    config: `
[plugins."io.containerd.cri.v1.images"]
  ${ranges}
[plugins."io.containerd.cri.v1.images".registry]
  config_path = "${config_path}"
[plugins."io.containerd.transfer.v1.local"]
  ${ranges}
`,
  })
  printed(await containerd.crictl(['pull', image]))
  const statuses = await waitForBlobs(
    outport,
    (seen) => seen.filter((status) => status === 206).length > 1,
  )
  assert.ok(
    statuses.every((status) => status === 200 || status === 206),
    String(statuses),
  )
})

test(
  'containerd 2.4 pulls over TLS with our CA in hosts.toml, and not without it',
  { timeout },
  async (t) => {
    if (!mayRun(t, '2.4')) return
    const outport = await startOutport(t, { tls: true })
    const image = `${outport.primary}/library/app:v1`
    await pushRandomImage(outport, image)
    const server = `https://${outport.primary}`
    const pull = async (extra: string) => {
      const config_path = await writeHosts(outport, { name: outport.primary, server, extra })
      const containerd = await start(t, outport, {
        version: '2.4',
        hosts: testHosts,
        config: `[plugins."io.containerd.cri.v1.images".registry]\n  config_path = "${config_path}"\n`,
      })
      const result = await containerd.crictl(['pull', image])
      await containerd.stop()
      return result
    }
    const refused = await pull('')
    assert.match(refused.stderr, /x509|certificate/)
    printed(await pull(`  ca = "${outport.ca}"\n`))
  },
)
