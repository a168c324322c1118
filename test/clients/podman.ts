import { copyFile, mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { subfolder, testHosts, type Outport } from './outport.ts'
import { run, type Result, type RunOptions } from './process.ts'
import { requireRoot, requireTools, toolPath } from './tools.ts'

/** podman and buildah with images, log-ins and configuration of their own; what they keep elsewhere is gone at once. */
export interface Containers {
  run(program: 'podman' | 'buildah', args: readonly string[], options?: RunOptions): Promise<Result>
  /** Replaces the file of registries.conf.d. */
  writeRegistries(text: string): Promise<void>
  /** Has them trust Outport's CA for a `host:port`. */
  trust(host: string): Promise<void>
}

/** Whether they can be run, and crane; when not, the test was marked as skipped: return then. */
export function mayRunContainers(t: TestContext): boolean {
  return requireTools(t, 'podman', 'buildah', 'runc', 'crane', 'curl') && requireRoot(t)
}

/** Gives them folders of Outport's. */
export async function createContainers(outport: Outport): Promise<Containers> {
  // The user's counterpart of /etc/containers.
  const settings = '.config/containers'
  const HOME = await subfolder(outport, 'home-podman')
  const confFolder = await subfolder(outport, `home-podman/${settings}/registries.conf.d`)
  const images = await subfolder(outport, 'podman')
  const hosts = join(images, 'hosts')
  await writeFile(
    join(HOME, settings, 'policy.json'),
    JSON.stringify({ default: [{ type: 'insecureAcceptAnything' }] }),
  )
  const logIns = join(HOME, 'auth.json')
  await writeFile(logIns, '{}') // podman does not make it
  const names = Object.entries({ localhost: '127.0.0.1', ...testHosts })
  await writeFile(hosts, names.map(([name, at]) => `${at} ${name}\n`).join(''))
  const stores = {
    podman: [
      ...['--root', join(images, 'root'), '--runroot', join(images, 'run')],
      ...['--storage-driver', 'vfs', '--tmpdir', join(images, 'tmp')],
      ...['--runtime', toolPath('runc'), '--cgroup-manager', 'cgroupfs'],
      ...['--events-backend', 'none', '--network-config-dir', join(images, 'networks')],
    ],
    buildah: [
      ...['--root', join(images, 'root'), '--runroot', join(images, 'run')],
      ...['--storage-driver', 'vfs'],
    ],
  }
  const inView = ['--mount', 'sh', '-ec', view, hosts]
  return {
    run: (program, args, options = {}) =>
      run('unshare', [...inView, toolPath(program), ...stores[program], ...args], {
        ...options,
        env: { HOME, REGISTRY_AUTH_FILE: logIns, ...options.env },
      }),
    writeRegistries: (text) => writeFile(join(confFolder, 'outport.conf'), text),
    trust: async (host) => {
      const folder = join(HOME, settings, 'certs.d', host)
      await mkdir(folder, { recursive: true })
      await copyFile(outport.ca, join(folder, 'ca.crt'))
    },
  }
}

/** In a mount namespace of its own: names of the test in the place of DNS, and nothing written to the machine's folders. */
const view = `
mount --bind "$0" /etc/hosts
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib
exec "$@"
`
