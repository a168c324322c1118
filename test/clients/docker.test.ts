import assert from 'node:assert/strict'
import { copyFile, mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { randomBytes } from 'node:crypto'
import { test, type TestContext } from 'node:test'
import { startUpstream, type Upstream } from '../kit/upstream.ts'
import { startDockerd, type Dockerd, type DockerdOptions } from './dockerd.ts'
import { fillHub } from './hub.ts'
import { printed } from './images.ts'
import {
  edgeName,
  primaryName,
  startOutport,
  subfolder,
  testHosts,
  waitForLog,
  type Outport,
} from './outport.ts'
import { requireRoot, requireTool } from './tools.ts'

const timeout = 180_000

function mayRun(t: TestContext): boolean {
  return (
    requireTool(t, 'dockerd') !== undefined &&
    requireTool(t, 'crane') !== undefined &&
    requireRoot(t)
  )
}

async function startDocker(
  t: TestContext,
  outport: Outport,
  options: Partial<DockerdOptions> = {},
): Promise<Dockerd> {
  const dockerd = await startDockerd({ dir: await subfolder(outport, 'docker'), ...options })
  t.after(() => dockerd.stop())
  return dockerd
}

async function build({ docker }: Dockerd, outport: Outport, name: string): Promise<void> {
  const folder = await subfolder(outport, 'context')
  await writeFile(
    join(folder, 'Dockerfile'),
    'FROM scratch\nCOPY content /content\nLABEL test=docker\n',
  )
  await writeFile(join(folder, 'content'), randomBytes(6 << 20))
  printed(await docker(['build', '-t', name, folder]))
}

const logIn = ({ docker }: Dockerd, host: string, { password }: Outport) =>
  docker(['login', '-u', 'admin', '--password-stdin', host], { input: password })

test('docker logs in, pushes to the primary and pulls through the edge', { timeout }, async (t) => {
  if (!mayRun(t)) return
  const outport = await startOutport(t)
  const dockerd = await startDocker(t, outport)
  const pushed = `${outport.primary}/library/app:v1`
  await build(dockerd, outport, pushed)
  const refused = await dockerd.docker(['push', pushed])
  assert.notEqual(refused.code, 0, 'a push without a log-in')
  printed(await logIn(dockerd, outport.primary, outport))
  printed(await dockerd.docker(['push', pushed]))
  // A second repository gets its layers by mounts.
  const mounted = `${outport.primary}/library/mounted:v1`
  printed(await dockerd.docker(['tag', pushed, mounted]))
  assert.match(printed(await dockerd.docker(['push', mounted])), /Mounted from library\/app/)
  const id = printed(await dockerd.docker(['image', 'inspect', '-f', '{{.Id}}', pushed])).trim()
  printed(await dockerd.docker(['rmi', '-f', id]))

  const pulled = `${outport.edge}/library/app:v1`
  printed(await dockerd.docker(['pull', pulled]))
  assert.equal(
    printed(await dockerd.docker(['image', 'inspect', '-f', '{{.Id}}', pulled])).trim(),
    id,
  )
  printed(await logIn(dockerd, outport.edge, outport))
  const wrong = await dockerd.docker(['login', '-u', 'admin', '--password-stdin', outport.edge], {
    input: 'wrong',
  })
  assert.notEqual(wrong.code, 0)
  const push = await dockerd.docker(['push', pulled])
  assert.notEqual(push.code, 0)
})

test(
  'docker pulls docker.io images through registry-mirrors, and its Hub password goes nowhere',
  { timeout },
  async (t) => {
    if (!mayRun(t)) return
    const hub = await startUpstream()
    t.after(() => hub.close())
    const outport = await startOutport(t, { dockerHub: hub.url.origin })
    const digest = await fillHub(outport, hub)
    // Tried first: a mirror that asks for a log-in is given the password, which proves that docker has one.
    const challenging = await startUpstream({ auth: { scheme: 'basic' } })
    t.after(() => challenging.close())
    const registryMirrors = [challenging.url.origin, `http://${outport.mirror}`]
    const dockerd = await startDocker(t, outport, { registryMirrors })
    const password = `Hub-1-${randomBytes(12).toString('hex')}`
    const basic = btoa(`somebody:${password}`)
    const DOCKER_CONFIG = await subfolder(outport, 'hub-login')
    await writeFile(
      join(DOCKER_CONFIG, 'config.json'),
      JSON.stringify({ auths: { 'https://index.docker.io/v1/': { auth: basic } } }),
    )
    printed(await dockerd.docker(['pull', 'app:v1'], { env: { DOCKER_CONFIG } }))
    const digests = printed(
      await dockerd.docker(['image', 'inspect', '-f', '{{json .RepoDigests}}', 'app:v1']),
    )
    assert.ok(digests.includes(digest))
    const sentTo = (registry: Upstream) =>
      registry.requests.map(({ headers }) => headers.authorization).filter(Boolean)
    assert.ok(sentTo(challenging).includes(`Basic ${basic}`))
    assert.ok(hub.requests.length > 0)
    assert.deepEqual(sentTo(hub), [])
    await hub.down()
    printed(await dockerd.docker(['rmi', 'app:v1']))
    printed(await dockerd.docker(['pull', 'app:v1'], { env: { DOCKER_CONFIG } }))
    const log = await waitForLog(outport, (text) => text.includes('"route":"blob"'))
    assert.ok(!log.includes(password) && !log.includes(basic), 'the log holds the password')
  },
)

test(
  'docker pushes and pulls over TLS with our CA, and is refused without it',
  { timeout },
  async (t) => {
    if (!mayRun(t)) return
    const outport = await startOutport(t, { tls: true })
    const certsDir = await subfolder(outport, 'certs.d')
    const dockerd = await startDocker(t, outport, { certsDir, hosts: testHosts })
    const pushed = `${outport.primary}/library/app:v1`
    await build(dockerd, outport, pushed)
    const untrusted = await logIn(dockerd, outport.primary, outport)
    assert.match(untrusted.stderr, /x509|certificate/)
    for (const host of [outport.primary, outport.edge]) {
      await mkdir(join(certsDir, host), { recursive: true })
      await copyFile(outport.ca, join(certsDir, host, 'ca.crt'))
    }
    printed(await logIn(dockerd, outport.primary, outport))
    printed(await dockerd.docker(['push', pushed]))
    const pulled = `${outport.edge}/library/app:v1`
    printed(await dockerd.docker(['pull', pulled]))
    assert.ok(outport.primary.startsWith(primaryName) && outport.edge.startsWith(edgeName))
  },
)
