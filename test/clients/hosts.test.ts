import assert from 'node:assert/strict'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { startUpstream } from '../kit/upstream.ts'
import { configPath, mayRunContainerd, startContainerd } from './containerd.ts'
import { startDockerd } from './dockerd.ts'
import { fillHub } from './hub.ts'
import { createPrivateProject, createRobot, printed, pushRandomImage } from './images.ts'
import { renderRegistriesYaml } from './k3s.ts'
import { runOutport, startOutport, subfolder, testHosts, type Outport } from './outport.ts'
import { createContainers, mayRunContainers } from './podman.ts'
import { isEdgeBlob, waitForRequests } from './requests.ts'
import { requireRoot, requireTools } from './tools.ts'

const timeout = 180_000

/** An edge at which nobody listens. */
const nobody = '127.0.0.1:1'

/** The options of a world over TLS: an edge that is not there, ours, the primary. */
const placesOf = ({ primary, edge, ca }: Outport) => [
  ...['--edge', `https://${nobody}`, '--edge', `https://${edge}`],
  ...['--primary', `https://${primary}`, '--ca', ca],
]

/** A private image, and the options of a log-in that may pull it. */
async function pushPrivate(outport: Outport) {
  await createPrivateProject(outport, 'secret')
  const image = `${outport.primary}/secret/app:v1`
  await pushRandomImage(outport, image)
  const { username, password } = await createRobot(outport, 'secret')
  const file = join(outport.folder, 'robot-password')
  await writeFile(file, password)
  const logIn = ['--username', username, '--password-file', file]
  return { image, creds: `${username}:${password}`, logIn }
}

test(
  'containerd 2.4 pulls a private image through the edge by what outport hosts wrote, past an edge that is not there',
  { timeout },
  async (t) => {
    if (!mayRunContainerd(t, '2.4') || !requireTools(t, 'curl')) return
    const outport = await startOutport(t, { tls: true })
    const { image, creds } = await pushPrivate(outport)
    const folder = await subfolder(outport, 'certs.d')
    await mkdir(join(folder, outport.primary))
    // A file of somebody else's, with a mirror that has nothing.
    const theirs = '[host."https://127.0.0.1:2"]\n  capabilities = ["pull"]\n'
    await writeFile(join(folder, outport.primary, 'hosts.toml'), theirs)
    await runOutport(['hosts', 'containerd', ...placesOf(outport), '--root', folder])
    const containerd = await startContainerd(t, outport, {
      version: '2.4',
      hosts: testHosts,
      config: configPath('2.4', folder),
    })
    printed(await containerd.crictl(['pull', '--creds', creds, image]))
    await waitForRequests(outport, (requests) => requests.some(isEdgeBlob))
  },
)

test(
  'containerd 1.6 pulls a private image through the edge by the config.toml of outport hosts --legacy',
  { timeout },
  async (t) => {
    if (!mayRunContainerd(t, '1.6') || !requireTools(t, 'curl')) return
    const outport = await startOutport(t, { tls: true })
    const { image, logIn } = await pushPrivate(outport)
    const file = join(outport.folder, 'config.toml')
    const options = ['--legacy', '--file', file, ...logIn]
    await runOutport(['hosts', 'containerd', ...placesOf(outport), ...options])
    const written = await readFile(file, 'utf8')
    assert.match(written, /^version = 2\n/)
    const containerd = await startContainerd(t, outport, {
      version: '1.6',
      hosts: testHosts,
      config: written.replace('version = 2\n', ''),
    })
    printed(await containerd.crictl(['pull', image]))
    await waitForRequests(outport, (requests) => requests.some(isEdgeBlob))
  },
)

test(
  "k3s's containerd pulls a private image by the registries.yaml that outport hosts wrote",
  { timeout },
  async (t) => {
    if (!mayRunContainerd(t, '2.4') || !requireTools(t, 'curl')) return
    const outport = await startOutport(t, { tls: true })
    const { image, logIn } = await pushPrivate(outport)
    const file = join(outport.folder, 'registries.yaml')
    await runOutport(['hosts', 'k3s', ...placesOf(outport), '--file', file, ...logIn])
    const folder = await subfolder(outport, 'certs.d')
    const config = await renderRegistriesYaml(await readFile(file, 'utf8'), {
      version: '2.4',
      folder,
    })
    const containerd = await startContainerd(t, outport, {
      version: '2.4',
      hosts: testHosts,
      config,
    })
    printed(await containerd.crictl(['pull', image]))
    await waitForRequests(outport, (requests) => requests.some(isEdgeBlob))
  },
)

test(
  'podman pulls images of docker.io and of the primary through one edge by what outport hosts wrote',
  { timeout },
  async (t) => {
    if (!mayRunContainers(t)) return
    const hub = await startUpstream()
    t.after(() => hub.close())
    const outport = await startOutport(t, { dockerHub: hub.url.origin })
    const digest = await fillHub(outport, hub)
    const own = `${outport.primary}/library/app:v1`
    await pushRandomImage(outport, own)
    const containers = await createContainers(outport)
    const file = join(outport.folder, 'outport.conf')
    await runOutport([
      ...['hosts', 'podman', '--plain-http', '--file', file, '--registry', 'docker.io'],
      ...['--edge', `http://${nobody}`, '--edge', `http://${outport.edge}`],
      ...['--primary', `http://${outport.primary}`],
    ])
    await containers.writeRegistries(await readFile(file, 'utf8'))
    printed(await containers.run('podman', ['pull', 'docker.io/library/app:v1']))
    assert.ok(hub.delivered(digest).gets > 0)
    printed(await containers.run('podman', ['pull', own]))
    await waitForRequests(outport, (all) => all.filter(isEdgeBlob).length >= 4)
  },
)

test(
  'docker pulls an image of docker.io by the daemon.json that outport hosts wrote',
  { timeout },
  async (t) => {
    if (!requireTools(t, 'dockerd', 'crane') || !requireRoot(t)) return
    const hub = await startUpstream()
    t.after(() => hub.close())
    const outport = await startOutport(t, { dockerHub: hub.url.origin })
    const digest = await fillHub(outport, hub)
    const file = join(outport.folder, 'daemon.json')
    const mirrors = ['--edge', `http://${nobody}`, '--edge', `http://${outport.mirror}`]
    await runOutport(['hosts', 'docker', '--plain-http', '--file', file, ...mirrors])
    const settings = JSON.parse(await readFile(file, 'utf8')) as Record<string, unknown>
    const dockerd = await startDockerd({ dir: await subfolder(outport, 'docker'), settings })
    t.after(() => dockerd.stop())
    printed(await dockerd.docker(['pull', 'app:v1']))
    assert.ok(hub.delivered(digest).gets > 0)
  },
)
