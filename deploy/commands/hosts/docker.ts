import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { mergeDaemonJson } from '../../../shared/clients/daemon-json.ts'
import { certificateHosts, dockerDaemonFor, placesOf } from '../../../shared/clients/mirroring.ts'
import { readTextFile } from '../../../shared/files/text-file.ts'
import { defineCommand, UsageError } from '../../command-line.ts'
import { StartError } from '../../start-errors.ts'
import { caFiles } from './ca-files.ts'
import { writeClientFiles } from './files.ts'
import { hostsOptions, parseMirroring, parsePath, readCa } from './options.ts'

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
    const daemon = dockerDaemonFor(mirroring)
    const about = placesOf(mirroring).map(({ host }) => host)
    const certs = parsePath('certs', options.certs ?? defaultCerts)
    const written = await writeClientFiles(
      [
        ...caFiles(ca, certificateHosts(mirroring), certs),
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
