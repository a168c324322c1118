import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { run, startDaemon, type Daemon, type Result, type RunOptions } from './process.ts'
import { toolPath } from './tools.ts'

export interface ContainerdOptions {
  readonly version: '1.6' | '2.4'
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
  /** The path of the socket. */
  readonly address: string
  /** The file that takes what containerd prints. It stays after `stop`. */
  readonly log: string
  stop(): Promise<void>
}

/**
 * Starts containerd: images can be pushed and pulled. Needs root.
 * @throws Error with the end of its log when it does not start
 */
export async function startContainerd(options: ContainerdOptions): Promise<Containerd> {
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
