import { defineGroup } from '../command-line.ts'
import { csr } from './certs/csr.ts'
import { init } from './certs/init.ts'
import { issue } from './certs/issue.ts'
import { layout } from './certs/layout.ts'

/** `outport certs` */
export const certs = defineGroup('certs', 'certificates for HTTPS, and where clients want them', [
  init,
  issue,
  csr,
  layout,
])
