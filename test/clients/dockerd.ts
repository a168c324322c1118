import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { run, startDaemon, type Result, type RunOptions, type View } from './process.ts'
import { toolPath } from './tools.ts'

export interface DockerdOptions {
  /** A folder for the images and the log. One dockerd at a time; the next one finds the images again. */
  readonly dir: string
  /** URLs that dockerd asks first for images of docker.io. */
  readonly registryMirrors?: readonly string[]
  /** `host[:port]` that may speak plain HTTP or show any certificate; 127.0.0.0/8 may. */
  readonly insecureRegistries?: readonly string[]
  /** Seen as /etc/docker/certs.d: `<host[:port]>/{ca.crt,client.cert,client.key}`. */
  readonly certsDir?: string
  /**
   * Host name → address, in the place of DNS: no other name but localhost resolves. Certificates are checked
   * only at addresses outside 127.0.0.0/8: use `::1` where they matter.
   */
  readonly hosts?: Readonly<Record<string, string>>
  /** More of daemon.json, e.g. `max-concurrent-downloads`. */
  readonly settings?: Readonly<Record<string, unknown>>
}

export interface Dockerd {
  /** Runs the docker CLI of the same version; it keeps its logins until `stop`. */
  readonly docker: (args: readonly string[], options?: RunOptions) => Promise<Result>
  /** The file that takes what dockerd prints. It stays after `stop`. */
  readonly log: string
  stop(): Promise<void>
}

/**
 * Starts dockerd 20.10 without networks: images can be pushed, pulled and built. Needs root.
 * @throws Error with the end of its log when it does not start
 */
export async function startDockerd(options: DockerdOptions): Promise<Dockerd> {
  const dockerd = toolPath('dockerd')
  const docker = toolPath('docker')
  const own = await mkdtemp('/tmp/op-') // the path of a socket holds 107 bytes
  const address = `unix://${join(own, 'd.sock')}`
  const log = join(options.dir, 'dockerd.log')
  const asClient = (given: RunOptions = {}): RunOptions => ({
    ...given,
    env: { DOCKER_HOST: address, DOCKER_CONFIG: join(own, 'config'), ...given.env },
  })
  try {
    const daemon = await startDaemon({
      command: dockerd,
      args: [
        '--iptables=false',
        '--ip6tables=false',
        '--bridge=none',
        `--config-file=${await writeSettings(own, options)}`,
        `--data-root=${join(options.dir, 'images')}`,
        `--exec-root=${join(own, 'exec')}`,
        `--pidfile=${join(own, 'pid')}`,
        `--host=${address}`,
      ],
      log,
      isReady: async () => (await run(docker, ['version'], asClient())).code === 0,
      view: await dockerdView(own, options),
    })
    return {
      docker: (args, given) => daemon.run(docker, args, asClient(given)),
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

async function writeSettings(folder: string, options: DockerdOptions): Promise<string> {
  const path = join(folder, 'daemon.json')
  const settings = {
    'registry-mirrors': options.registryMirrors ?? [],
    'insecure-registries': options.insecureRegistries ?? [],
    ...options.settings,
  }
  await writeFile(path, JSON.stringify(settings))
  return path
}

/** dockerd knows no other place for certificates than /etc/docker, and writes a key there. */
async function dockerdView(folder: string, options: DockerdOptions): Promise<View> {
  const etcDocker = join(folder, 'etc-docker')
  await mkdir(join(etcDocker, 'certs.d'), { recursive: true })
  const binds: Record<string, string> = { '/etc/docker': etcDocker }
  if (options.certsDir !== undefined) binds['/etc/docker/certs.d'] = options.certsDir
  return { dir: join(folder, 'view'), hosts: options.hosts ?? {}, binds }
}
