import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { mergeContainerdConfig } from '../../../shared/clients/containerd-config.ts'
import {
  hostsTomlFolders,
  hostsTomlPath,
  mergeHostsToml,
} from '../../../shared/clients/hosts-toml.ts'
import {
  criRegistriesFor,
  hostsTomlFor,
  type Mirroring,
} from '../../../shared/clients/mirroring.ts'
import { isMissing } from '../../../shared/files/open-files.ts'
import { defineCommand, UsageError } from '../../command-line.ts'
import { writeClientFiles, type ClientFile } from './files.ts'
import { readNear } from './near-options.ts'
import {
  hostsOptions,
  logInOptions,
  parseMirroring,
  parsePath,
  readCa,
  readLogIn,
} from './options.ts'
import { writeNearest } from './watch.ts'

const defaultRoot = '/etc/containerd/certs.d'
const defaultConfig = '/etc/containerd/config.toml'

/** `outport hosts containerd` */
export const containerd = defineCommand({
  name: 'hosts containerd',
  summary: "write containerd's hosts.toml, or its mirrors of old",
  options: {
    ...hostsOptions,
    root: { type: 'string', value: 'DIR', help: `where to write (default ${defaultRoot})` },
    legacy: {
      type: 'boolean',
      help: 'write mirrors into config.toml instead, as containerd 1.x knows them',
    },
    file: {
      type: 'string',
      value: 'FILE',
      help: `that config.toml (default ${defaultConfig})`,
    },
    ...logInOptions,
  },
  notes: `A registry's hosts.toml is read at each pull, without a restart, where config_path of containerd's registry plugin names DIR.
What others wrote in the files stays; see docs/hosts.md. --username and --password-file go with --legacy: hosts.toml holds no log-ins.`,
  async run(options) {
    const { legacy, root, file, 'dry-run': dryRun } = options
    if (legacy && root !== undefined) throw new UsageError('--root does not go with --legacy')
    if (!legacy && file !== undefined) throw new UsageError('--file goes with --legacy')
    const given = parseMirroring('containerd', options)
    const logIn = await readLogIn(options)
    if (!legacy && logIn !== undefined) {
      throw new UsageError('hosts.toml holds no log-ins: --username goes with --legacy')
    }
    const mirroring = { ...given, logIn }
    await readCa(mirroring)
    const [config, folder] = [
      parsePath('file', file ?? defaultConfig),
      parsePath('root', root ?? defaultRoot),
    ]
    return writeNearest({
      mirroring,
      settings: await readNear(options, process.env),
      plainHttp: options['plain-http'],
      write: (nearest) =>
        legacy ? writeLegacy(nearest, config, dryRun) : writeHosts(nearest, folder, dryRun),
    })
  },
})

async function writeHosts(mirroring: Mirroring, root: string, dryRun: boolean): Promise<number> {
  const files: ClientFile[] = []
  for (const { registry, hosts, keepsServer } of hostsTomlFor(mirroring)) {
    const path = hostsTomlPath(await folderOf(registry, root), root)
    files.push({ path, merge: (existing) => mergeHostsToml(existing, hosts, { keepsServer }) })
  }
  const written = await writeClientFiles(files, { dryRun })
  if (written.length > 0) {
    process.stdout.write(
      `containerd reads it at the next pull, if its config_path names ${root}: nothing to reload\n`,
    )
  }
  return 0
}

async function folderOf(registry: string, root: string): Promise<string> {
  for (const folder of hostsTomlFolders(registry)) {
    if (await isThere(join(root, folder))) return folder
  }
  return registry
}

async function isThere(path: string): Promise<boolean> {
  try {
    await stat(path)
    return true
  } catch (error) {
    if (isMissing(error)) return false
    throw error
  }
}

async function writeLegacy(mirroring: Mirroring, path: string, dryRun: boolean): Promise<number> {
  const registries = criRegistriesFor(mirroring)
  const file = {
    path,
    isSecret: mirroring.logIn !== undefined,
    merge: (existing: string) => mergeContainerdConfig(existing, registries),
  }
  const written = await writeClientFiles([file], { dryRun })
  if (written.length > 0) {
    process.stdout.write('containerd reads it when it starts: systemctl restart containerd\n')
  }
  return 0
}
