import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { formatRegistriesConf } from '../../shared/clients/registries-conf.ts'
import { startUpstream } from '../kit/upstream.ts'
import { fillHub } from './hub.ts'
import { createPrivateProject, createRobot, printed, pushRandomImage } from './images.ts'
import { printedFile, startOutport, subfolder, type Outport } from './outport.ts'
import { createContainers, mayRunContainers, type Containers } from './podman.ts'
import { isEdgeBlob, waitForRequests } from './requests.ts'

const timeout = 180_000

/** Builds from an image, which is pulled by that. */
async function build({ run }: Containers, outport: Outport, from: string): Promise<void> {
  const folder = await subfolder(outport, 'context')
  await writeFile(join(folder, 'Containerfile'), `FROM ${from}\nCOPY added /added\n`)
  await writeFile(join(folder, 'added'), 'added')
  printed(await run('buildah', ['build', '--pull-always', '-t', 'built:v1', folder]))
}

const digestIn = async ({ run }: Containers, image: string) =>
  printed(await run('podman', ['image', 'inspect', '--format', '{{.Digest}}', image])).trim()

/** Waits until each of the edge's listeners has given a blob. */
const waitForBlobs = (outport: Outport, ...listeners: readonly string[]) =>
  waitForRequests(outport, (requests) =>
    listeners.every((name) =>
      requests.some((request) => isEdgeBlob(request) && request.listener === name),
    ),
  )

test(
  'podman pulls and buildah builds through the edge by the registries.conf that up prints, and past a mirror that is not there',
  { timeout },
  async (t) => {
    if (!mayRunContainers(t)) return
    const hub = await startUpstream()
    t.after(() => hub.close())
    const outport = await startOutport(t, { dockerHub: hub.url.origin })
    const digest = await fillHub(outport, hub)
    const own = `${outport.primary}/library/app:v1`
    const ownDigest = await pushRandomImage(outport, own)
    const containers = await createContainers(outport)
    await containers.writeRegistries(printedFile(outport, 'podman, both'))
    printed(await containers.run('podman', ['pull', 'docker.io/library/app:v1']))
    assert.equal(await digestIn(containers, 'docker.io/library/app:v1'), digest)
    await build(containers, outport, own)
    assert.equal(await digestIn(containers, own), ownDigest)
    await waitForBlobs(outport, 'mirror', 'edge')

    // The first of two mirrors is not there.
    printed(await containers.run('podman', ['rmi', '--all', '--force']))
    const mirrors = ['127.0.0.1:1', outport.mirror]
    const insecure = mirrors.map((location) => ({ location, insecure: true }))
    await containers.writeRegistries(
      formatRegistriesConf([{ location: 'docker.io', mirrors: insecure }]),
    )
    printed(await containers.run('podman', ['pull', 'docker.io/library/app:v1']))
    assert.equal(await digestIn(containers, 'docker.io/library/app:v1'), digest)
  },
)

test(
  'podman and buildah pull a private image over TLS, by mirror and directly, with a log-in and the CA alone',
  { timeout },
  async (t) => {
    if (!mayRunContainers(t)) return
    const outport = await startOutport(t, { tls: true })
    await createPrivateProject(outport, 'secret')
    const { username, password } = await createRobot(outport, 'secret')
    const named = `${outport.primary}/secret/app:v1`
    const direct = `${outport.edge}/secret/app:v1`
    const digest = await pushRandomImage(outport, named)
    const containers = await createContainers(outport)
    const { run } = containers
    const logIn = ['login', '-u', username, '--password-stdin', outport.edge]
    const untrusted = await run('podman', logIn, { input: password })
    assert.match(untrusted.stderr, /x509|certificate/)
    await containers.trust(outport.edge)
    const anonymous = await run('podman', ['pull', direct])
    assert.match(anonymous.stderr, /unauthorized|authentication required|denied/i)
    const wrong = await run('podman', logIn, { input: 'wrong' })
    assert.notEqual(wrong.code, 0, 'a log-in with a wrong password')
    printed(await run('podman', logIn, { input: password }))
    printed(await run('podman', ['pull', direct]))
    assert.equal(await digestIn(containers, direct), digest)
    // The primary itself is not trusted: only the mirror can give what is named by it.
    await containers.writeRegistries(
      formatRegistriesConf([{ location: outport.primary, mirrors: [{ location: outport.edge }] }]),
    )
    printed(await run('podman', ['pull', named]))
    assert.equal(await digestIn(containers, named), digest)
    printed(await run('podman', ['rmi', '--all', '--force']))
    await build(containers, outport, named)
    await waitForBlobs(outport, 'edge')
  },
)
