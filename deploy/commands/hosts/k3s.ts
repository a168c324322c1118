import { k3sRegistriesFor, type Mirroring } from '../../../shared/clients/mirroring.ts'
import { mergeRegistriesYaml } from '../../../shared/clients/registries-yaml.ts'
import { defineCommand } from '../../command-line.ts'
import { writeClientFiles } from './files.ts'
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

const defaultFile = '/etc/rancher/k3s/registries.yaml'

/** `outport hosts k3s` */
export const k3s = defineCommand({
  name: 'hosts k3s',
  summary: "write k3s's registries.yaml",
  options: {
    ...hostsOptions,
    file: { type: 'string', value: 'FILE', help: `where to write (default ${defaultFile})` },
    ...logInOptions,
  },
  notes: `k3s reads it only when it starts, on each node; --reload does not restart it. What others wrote in the file stays; see docs/hosts.md.`,
  async run(options) {
    const given = parseMirroring('k3s', options)
    const mirroring = { ...given, logIn: await readLogIn(options) }
    await readCa(mirroring)
    return writeNearest({
      mirroring,
      settings: await readNear(options, process.env),
      plainHttp: options['plain-http'],
      write: (nearest) =>
        write(nearest, parsePath('file', options.file ?? defaultFile), options['dry-run']),
    })
  },
})

async function write(mirroring: Mirroring, path: string, dryRun: boolean): Promise<number> {
  const registries = k3sRegistriesFor(mirroring)
  const written = await writeClientFiles(
    [
      {
        path,
        isSecret: mirroring.logIn !== undefined,
        merge: (existing) => mergeRegistriesYaml(existing, registries),
      },
    ],
    { dryRun },
  )
  if (written.length > 0) {
    process.stdout.write(
      'k3s reads it when it starts: systemctl restart k3s, on agents systemctl restart k3s-agent\n',
    )
  }
  return 0
}
