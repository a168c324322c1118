import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { TestContext } from 'node:test'
import { formatHostsToml, hostsTomlPath, type HostsToml } from '../../shared/clients/hosts-toml.ts'
import { subfolder, type Outport } from './outport.ts'
import { run, startDaemon, type Daemon, type Result, type RunOptions } from './process.ts'
import { requireRoot, requireTools, toolPath } from './tools.ts'

export type ContainerdVersion = '1.6' | '2.4'

export interface ContainerdOptions {
  readonly version: ContainerdVersion
  /** A folder for the images and the log. One containerd at a time; the next one finds the images again. */
  readonly dir: string
  /** Tables of config.toml; its version line (2 for 1.6, 3 for 2.4) is written here. */
  readonly config?: string
  /** Host name → address, in the place of DNS: no other name but localhost resolves. */
  readonly hosts?: Readonly<Record<string, string>>
}

export interface Containerd {
  /** Runs the ctr of the same version. In 1.6 it is ctr itself that pulls and pushes. */
  ctr(args: readonly string[], options?: RunOptions): Promise<Result>
  /** Runs crictl: its `pull` goes by the registry tables of `config`, as a kubelet's does. */
  crictl(args: readonly string[], options?: RunOptions): Promise<Result>
  /** The file in which it keeps a blob or manifest. */
  blobPath(digest: string): string
  /** The path of the socket. */
  readonly address: string
  /** The file that takes what containerd prints. It stays after `stop`. */
  readonly log: string
  stop(): Promise<void>
}

/** Whether it can be started, with crictl, ctr and crane; when not, the test was marked as skipped: return then. */
export function mayRunContainerd(t: TestContext, ...versions: ContainerdVersion[]): boolean {
  const tools = versions.flatMap((version) => [`containerd-${version}`, `ctr-${version}`])
  return requireTools(t, ...tools, 'crictl', 'crane') && requireRoot(t)
}

/** Starts one for a test, in a folder of Outport's; it stops when the test is over. */
export async function startContainerd(
  t: TestContext,
  outport: Outport,
  options: Omit<ContainerdOptions, 'dir'>,
): Promise<Containerd> {
  const dir = await subfolder(outport, `containerd-${options.version}`)
  const containerd = await start({ dir, ...options })
  t.after(() => containerd.stop())
  return containerd
}

/** The table of config.toml that holds what is said about registries. */
export function registryTable(version: ContainerdVersion): string {
  const plugin = version === '1.6' ? 'io.containerd.grpc.v1.cri' : 'io.containerd.cri.v1.images'
  return `plugins."${plugin}".registry`
}

/** The line of config.toml that names the folder of the hosts.toml files, under its table. */
export function configPath(version: ContainerdVersion, folder: string): string {
  return `[${registryTable(version)}]\n  config_path = "${folder}"\n`
}

/** Writes the hosts.toml of a registry. @returns the folder for `configPath` */
export async function writeHostsToml(
  outport: Outport,
  registry: string,
  hosts: HostsToml | string,
): Promise<string> {
  const folder = await subfolder(outport, 'certs.d')
  const path = hostsTomlPath(registry, folder)
  await mkdir(dirname(path), { recursive: true })
  await writeFile(path, typeof hosts === 'string' ? hosts : formatHostsToml(hosts))
  return folder
}

/**
 * Starts containerd: images can be pushed and pulled. Needs root.
 * @throws Error with the end of its log when it does not start
 */
async function start(options: ContainerdOptions): Promise<Containerd> {
  const containerd = toolPath(`containerd-${options.version}`)
  const ctr = toolPath(`ctr-${options.version}`)
  const own = await mkdtemp('/tmp/op-') // the path of a socket holds 107 bytes
  const address = join(own, 'c.sock')
  const log = join(options.dir, 'containerd.log')
  const asCtr = (args: readonly string[]) => ['--address', address, ...args]
  try {
    const daemon = await startDaemon({
      command: containerd,
      args: [
        `--config=${await writeConfig(own, options)}`,
        `--root=${join(options.dir, 'images')}`,
        `--state=${join(own, 'state')}`,
        `--address=${address}`,
      ],
      log,
      isReady: async () => (await run(ctr, asCtr(['--connect-timeout=1s', 'version']))).code === 0,
      view: { dir: join(own, 'view'), hosts: options.hosts ?? {} },
    })
    const crictl = await crictlFor(address, own, daemon)
    return {
      ctr: (args, given) => daemon.run(ctr, asCtr(args), given),
      crictl,
      blobPath: (digest) => join(options.dir, contentStore, digest.replace(':', '/')),
      address,
      log,
      stop: async () => {
        await daemon.stop()
        await rm(own, { recursive: true, force: true })
      },
    }
  } catch (error) {
    await rm(own, { recursive: true, force: true })
    throw error
  }
}

const contentStore = 'images/io.containerd.content.v1.content/blobs'

async function writeConfig(folder: string, options: ContainerdOptions): Promise<string> {
  const path = join(folder, 'config.toml')
  const version = options.version === '1.6' ? 2 : 3
  await writeFile(path, `version = ${version}\n${options.config ?? ''}`)
  return path
}

async function crictlFor(
  address: string,
  folder: string,
  daemon: Daemon,
): Promise<Containerd['crictl']> {
  const config = join(folder, 'crictl.yaml')
  await writeFile(
    config,
    `runtime-endpoint: unix://${address}\nimage-endpoint: unix://${address}\n`,
  )
  return (args, given) =>
    daemon.run(toolPath('crictl'), ['--config', config, '--timeout', '60s', ...args], given)
}
