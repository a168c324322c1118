import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { mergeDaemonJson } from '../../../shared/clients/daemon-json.ts'
import { certificateHosts, dockerDaemonFor, placesOf } from '../../../shared/clients/mirroring.ts'
import { readTextFile } from '../../../shared/files/text-file.ts'
import { defineCommand, UsageError } from '../../command-line.ts'
import { StartError } from '../../start-errors.ts'
import { caFiles } from './ca-files.ts'
import { writeClientFiles } from './files.ts'
import { readNear } from './near-options.ts'
import { hostsOptions, parseMirroring, parsePath, readCa } from './options.ts'
import { writeNearest } from './watch.ts'

const defaultFile = '/etc/docker/daemon.json'
const defaultCerts = '/etc/docker/certs.d'
const defaultPidFile = '/var/run/docker.pid'

/** `outport hosts docker` */
export const docker = defineCommand({
  name: 'hosts docker',
  summary: "write docker's daemon.json: mirrors of docker.io",
  options: {
    ...hostsOptions,
    primary: { ...hostsOptions.primary, help: 'the primary, for what docker is to trust' },
    registry: { ...hostsOptions.registry, help: 'docker.io, which is mirrored anyway' },
    file: { type: 'string', value: 'FILE', help: `where to write (default ${defaultFile})` },
    certs: {
      type: 'string',
      value: 'DIR',
      help: `where the CA is copied to, for each host (default ${defaultCerts})`,
    },
    'pid-file': {
      type: 'string',
      value: 'FILE',
      help: `where dockerd says its pid, for --reload (default ${defaultPidFile})`,
    },
    'edge-port': {
      type: 'string',
      value: 'PORT',
      help: "with --near: the port of the edges' listeners of docker.io, where --edge names none",
    },
  },
  notes: `docker mirrors docker.io alone, without saying so to the mirror: give the URLs of the edges' listeners of docker.io. The images of
the primary are pulled by an edge's own name. --primary says whom docker is to trust: by --ca, or as insecure by --plain-http or --skip-verify.`,
  async run(options) {
    const other = options.registry.find((name) => name !== 'docker.io')
    if (other !== undefined) {
      throw new UsageError(
        `docker has mirrors for docker.io alone, not for ${other}: pull such images by the edge's own name`,
      )
    }
    const mirroring = parseMirroring('docker', { ...options, registry: ['docker.io'] })
    const ca = await readCa(mirroring)
    const path = parsePath('file', options.file ?? defaultFile)
    const pidFile = parsePath('pid-file', options['pid-file'] ?? defaultPidFile)
    const certs = parsePath('certs', options.certs ?? defaultCerts)
    return writeNearest({
      mirroring,
      settings: await readNear(options, process.env),
      plainHttp: options['plain-http'],
      port: parseEdgePort(options),
      async write(nearest) {
        const daemon = dockerDaemonFor(nearest)
        const about = placesOf(nearest).map(({ host }) => host)
        const written = await writeClientFiles(
          [
            ...caFiles(ca, certificateHosts(nearest), certs),
            { path, merge: (existing) => mergeDaemonJson(existing, daemon, about) },
          ],
          { dryRun: options['dry-run'] },
        )
        // Certificates are read at each pull.
        if (!written.includes(path)) return 0
        if (options.reload) await reload(pidFile)
        else process.stdout.write('docker reads it by: systemctl reload docker\n')
        return 0
      },
    })
  },
})

/** @throws UsageError when edges would be written by their own URLs, whose listeners ask docker for a log-in */
function parseEdgePort({
  near,
  edge,
  'edge-port': port,
}: {
  readonly near: boolean
  readonly edge: readonly string[]
  readonly 'edge-port': string | undefined
}): string | undefined {
  if (port === undefined && near && edge.length === 0)
    throw new UsageError(
      "hosts docker --near needs the port of the edges' listeners of docker.io: --edge-port 8082",
    )
  if (port === undefined) return undefined
  if (!near || edge.length > 0) throw new UsageError('--edge-port goes with --near, without --edge')
  if (!/^\d{1,5}$/.test(port) || Number(port) < 1 || Number(port) > 65_535)
    throw new UsageError(`--edge-port: '${port}' is no port`)
  return port
}

/** @throws StartError when the pid file names no running dockerd: the signal would end any other program */
async function reload(pidFile: string): Promise<void> {
  const refuse = (why: string, cause?: unknown): never => {
    throw new StartError(
      `written, but docker was not told: ${why}; type: systemctl reload docker`,
      {
        cause,
      },
    )
  }
  const text = await readTextFile(pidFile).catch((cause: unknown) =>
    refuse(`cannot read ${pidFile}`, cause),
  )
  const pid = /^\s*([1-9]\d{0,9})\s*$/.test(text) ? Number(text) : refuse(`${pidFile} holds no pid`)
  const name = await readFile(join('/proc', String(pid), 'comm'), 'utf8').catch((cause: unknown) =>
    refuse(`${pid}, the pid in ${pidFile}, does not run`, cause),
  )
  if (name.trim() !== 'dockerd') refuse(`${pid}, the pid in ${pidFile}, is not dockerd's`)
  try {
    process.kill(pid, 'SIGHUP')
  } catch (cause) {
    refuse(`cannot signal ${pid}`, cause)
  }
  process.stdout.write('docker was told to read it\n')
}
