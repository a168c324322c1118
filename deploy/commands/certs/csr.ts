import { existsSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { writeFileAtomic } from '../../../shared/files/atomic-write.ts'
import { defineCommand } from '../../command-line.ts'
import { StartError } from '../../start-errors.ts'
import { nameOptions, parseFileName, parseNames } from './names.ts'

/** `outport certs csr` */
export const csr = defineCommand({
  name: 'certs csr',
  summary: "make a key and a request for somebody else's CA to sign",
  options: {
    ...nameOptions,
    out: { type: 'string', value: 'DIR', help: 'where to write (default .)' },
    name: { type: 'string', value: 'NAME', help: 'the name of the files (default server)' },
  },
  notes: `Writes NAME.key (mode 0600) and NAME.csr. The CA must copy the names into the certificate's subjectAltName.`,
  async run({ host, ip, out = '.', name = 'server' }) {
    const names = parseNames({ host, ip })
    const file = parseFileName('name', name)
    const key = join(out, `${file}.key`)
    if (existsSync(key)) {
      throw new StartError(
        `${key} exists, and a certificate may be for it: remove it first, or choose another --name`,
      )
    }
    const { createServerRequest } = await import('../../../shared/trust/pki.ts')
    const made = await createServerRequest(names)
    await mkdir(out, { recursive: true })
    await writeFileAtomic(key, made.key, { mode: 0o600 })
    const request = join(out, `${file}.csr`)
    await writeFileAtomic(request, made.request, { mode: 0o644 })
    process.stdout.write(`${request}\n${key}\n`)
    return 0
  },
})
